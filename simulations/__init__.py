"""Entry points on one machine or a Ray cluster: studies, audits of finished runs, leakage curves, exports, evidence."""
