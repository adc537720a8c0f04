"""The papers' formulas, slowly: loops over numbers, nothing of the library."""

import math


def cosine(a, b):
    length = math.sqrt(float((a * a).sum())) * math.sqrt(float((b * b).sum()))
    return float((a * b).sum()) / length


def cross_entropy(logits, target):
    """-log softmax of one row of plain numbers."""
    largest = max(logits)
    return math.log(sum(math.exp(x - largest) for x in logits)) + largest - logits[target]


def nt_xent(z0, z1, temperature):
    """SimCLR, equation 1, averaged as in its algorithm 1."""
    z = [*z0, *z1]
    n = len(z0)
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = [k for k in range(2 * n) if k != i]
        logits = [cosine(z[i], z[k]) / temperature for k in others]
        total += cross_entropy(logits, others.index(partner))
    return total / (2 * n)


def moco(queries, keys, queue, temperature):
    """MoCo, equation 1: the positive and the whole queue."""
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        logits = [cosine(query, key)] + [cosine(query, other) for other in queue]
        total += cross_entropy([x / temperature for x in logits], 0)
    return total / len(queries)


def moco_v3(queries, keys, temperature):
    """MoCo v3, ctr() of its algorithm 1: 2τ times the cross-entropy within the batch."""
    total = 0.0
    for i, query in enumerate(queries):
        total += cross_entropy([cosine(query, key) / temperature for key in keys], i)
    return 2 * temperature * total / len(queries)


def sup_con(z, labels, temperature):
    """SupCon, equation 2: mean over anchors of the mean over positives, taken outside the log."""
    total = 0.0
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        logits = [cosine(z[i], z[k]) / temperature for k in others]
        positives = [place for place, k in enumerate(others) if labels[k] == labels[i]]
        total += sum(cross_entropy(logits, place) for place in positives) / len(positives)
    return total / len(z)


class Lars:
    """LARS for plain tensors (arXiv 1708.03888, algorithm 1), as SimCLR excludes 1-d ones."""

    def __init__(self, momentum, weight_decay, trust=0.001):
        self.momentum, self.weight_decay, self.trust = momentum, weight_decay, trust
        self.velocity = {}

    def step(self, weights, gradients, rate):
        for name, w in weights.items():
            g = gradients[name]
            local = 1.0
            if w.ndim > 1:
                g_norm, w_norm = g.norm().item(), w.norm().item()
                local = self.trust * w_norm / (g_norm + self.weight_decay * w_norm)
                g = g + self.weight_decay * w
            v = self.momentum * self.velocity.get(name, 0.0) + local * g
            self.velocity[name] = v
            weights[name] = w - rate * v
