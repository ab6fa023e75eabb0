"""One hospital: the Flower ClientApp, the site's policy, and its workspace."""
