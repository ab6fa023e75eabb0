"""``fedkr kr``: Knowledge Recycling at one site, without federation."""
