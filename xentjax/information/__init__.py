"""Entropy, cross-entropy and divergences of pmfs, with right derivatives on the boundary too.

Arguments are probability mass functions along `axis`, and `form` says what the arrays hold:

    "pmf"      p_k, the default
    "log_pmf"  log p_k, which keeps probabilities of e^-200 and the digits of 1 - e^-30
    "logits"   any a_k, for p = softmax(a) over the outcomes that `where` keeps

Nothing is normalised. An array that is not a pmf within the tolerance of `check_pmf` is an error if
its values are known (not under jit, vmap or grad). With `where`, the kept outcomes must sum to 1.
Half precision is computed and returned in float32, float64 stays float64. Results are in the unit
of `base`: None or "nats", 2 or "bits", 10 or "hartleys", or any other positive real except 1.

A derivative at p = 0 is the limit from inside the simplex, so it may be infinite: d entropy / dp is
+inf. A tangent or cotangent of 0 (a probability held fixed, a masked outcome) gives 0 there.
Derivatives in log p are p times those in p, and 0 at log p = -inf.

In reverse mode an infinite derivative is passed on to whatever computed p. Where a softmax
underflows, its own derivative of 0 should win; `jax.nn.softmax` multiplies, 0 * inf, and its
gradient is NaN. Give logits with form="logits", which also keeps what p has lost, or use forward
mode.

Source: T. M. Cover and J. A. Thomas, Elements of Information Theory, 2nd ed. (2006), chapter 2.
"""

from xentjax.information.joint import (
    conditional_entropy as conditional_entropy,
    mutual_information as mutual_information,
)
from xentjax.information.measures import (
    check_pmf as check_pmf,
    cross_entropy as cross_entropy,
    entropy as entropy,
    js_divergence as js_divergence,
    kl_divergence as kl_divergence,
    perplexity as perplexity,
)
