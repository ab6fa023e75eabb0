"""The shim that Flower's bundle holds for ``fedkr audit RUN``: the audit's ServerApp and the sites' usual ClientApp."""

from simulations.audit_run.server import app as audit_server_app
from sites.app import app as installed_client_app

# Flower's static check finds plain assignments only, not imported names.
client_app = installed_client_app
server_app = audit_server_app
