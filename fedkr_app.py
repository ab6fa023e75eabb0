"""The shim that Flower's bundle holds: it binds the two installed apps, and ships no code of its own."""

import logging

try:
    from server.app import app as installed_server_app
    from sites.app import app as installed_client_app
except Exception:
    # Flower sends the text of what is raised here to the server, and it may hold a path of the site's.
    logging.getLogger("fedkr").exception("fedkr cannot be loaded")
    raise ImportError("fedkr cannot be loaded; the log of this machine says why") from None

# Flower's static check finds plain assignments only, not imported names.
client_app = installed_client_app
server_app = installed_server_app
