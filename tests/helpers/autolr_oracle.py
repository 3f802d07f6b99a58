"""Sorting quality and targets of AutoLR as plain loops."""


def loop_quality(v):
    """Eq. 9; ``sorted`` is stable, so ties keep the order of the blocks."""
    count = len(v)
    order = sorted(range(count), key=lambda k: v[k])
    return 1 - 2 / count**2 * sum(abs(k - order.index(k)) for k in range(count))


def loop_initial(v, alpha=2.0, beta=0.4):
    """Eq. 10–11 with α in the first term; returns the targets and whether α and β were left aside."""
    count, low, high = len(v), alpha * min(v), beta * max(v)
    fallback = high <= low or count == 1
    if fallback:
        low, high = min(v), max(v)
    step = (high - low) / (count - 1) if count > 1 else 0.0
    return [low + k * step for k in range(count)], fallback


def loop_renewed(v):
    """Eq. 12–13, floored."""
    count = len(v)
    step = (max(v) - min(v)) / (count - 1) if count > 1 else 0.0
    centre = count // 2
    t = list(v)
    for k in range(centre + 1, count):
        t[k] = v[k] if v[k] >= t[k - 1] else t[k - 1] + step
    for k in range(centre - 1, -1, -1):
        t[k] = v[k] if v[k] <= t[k + 1] else t[k + 1] - step
    return [max(target, 0.1 * min(v)) for target in t]
