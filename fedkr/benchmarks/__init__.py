"""Measurements that the command line offers: one way of computing against another, in one run, on this machine."""
