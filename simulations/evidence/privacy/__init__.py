"""What makes a release private: variants of Knowledge Recycling, each attacked leave-one-out by its own pipelines.

``python -m simulations.evidence.privacy out=DIR dataset=NAME data_root=DIR variants=default,augment0.12+hard``; the
module ``command`` has all words.
"""
