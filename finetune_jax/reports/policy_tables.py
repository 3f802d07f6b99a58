"""Tables of what a policy does: the numbers behind SpotTune's Figures 3 and 4, for one run."""

from finetune_jax.algorithms import policies
from finetune_jax.reports.run_result import PolicyDecisions
from finetune_jax.reports.tables import Files, csv_text


def files(policy: PolicyDecisions) -> Files:
    """``policy_usage.csv`` (shares of images, in all and per class) and ``policy_counts.csv``."""
    decisions, labels = policy.decisions, policy.labels
    shares: list[list[object]] = [
        ["class", "images", *policy.blocks],
        ["all", len(labels), *map(float, decisions.mean(0))],
    ]
    for name, usage in policies.usage_per_class(decisions, labels, policy.class_names).items():
        images = int((labels == policy.class_names.index(name)).sum())
        shares.append([name, images, *map(float, usage)])
    counts = enumerate(map(int, policies.tuned_block_counts(decisions)))
    return {
        "policy_usage.csv": csv_text(shares),
        "policy_counts.csv": csv_text([("tuned_blocks", "images"), *counts]),
    }
