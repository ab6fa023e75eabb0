"""The audit: what an attacker learns about single private images, measured at the site that owns them."""
