"""The closed network of a deployment: one public port for SuperNodes only, and bundles that publishers signed."""
