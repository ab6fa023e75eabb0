"""The shim that Flower's bundle holds: it binds the two installed apps, and ships no code of its own."""

from server.app import app as installed_server_app
from sites.app import app as installed_client_app

# Flower's static check finds plain assignments only, not imported names.
client_app = installed_client_app
server_app = installed_server_app
