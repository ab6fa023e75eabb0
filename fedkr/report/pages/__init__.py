"""The pages that fedkr writes: of a run, of an audit for the site's own eyes, of an outside model's audit."""
