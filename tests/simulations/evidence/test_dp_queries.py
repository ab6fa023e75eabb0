"""The evidence for how covariances are asked for: what the answers classify, by either form."""

import json

from simulations.evidence import dp_queries


def test_both_forms_classify_and_noise_costs_accuracy(tmp_path):
    asked = ["datasets=digits", "images=600", "components=12", "epsilons=20,0.5", "seeds=0,1"]
    dp_queries.main([f"out={tmp_path}/queries.json", *asked])
    little, much = json.loads((tmp_path / "queries.json").read_text())["rows"]
    for form in ("three", "four"):
        assert min(little[form]) > 0.8 > max(much[form]) and len(little[form]) == 2
    assert (little["images"], little["epsilon"], much["epsilon"]) == (600, 20.0, 0.5)
    assert little["moved"] < much["moved"]
