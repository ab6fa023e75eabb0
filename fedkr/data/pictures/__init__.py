"""Files of single pictures, of many formats, as 8-bit grey or colour arrays of the size that a dataset asks for."""
