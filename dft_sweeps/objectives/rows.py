"""Row terms: divergences between the next-token distributions of policy and reference, with their gradients.

Each takes log-probabilities [n, vocabulary] of the policy and of the reference and gives the divergence in nats [n]
and its gradient by the policy's logits [n, vocabulary]; the reference is a constant. In closed form, so that one
buffer holds what automatic differentiation would keep three of.
"""

from __future__ import annotations

from torch import Tensor


def kl_reference_to_policy(logprobs: Tensor, reference_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q || p) = sum_v q_v (log q_v - log p_v), whose gradient by the policy's logits is p - q.

    What the code of ASFT (arXiv 2509.23753) computes: `F.kl_div` takes the second distribution as the one to sum by.
    """
    reference = reference_logprobs.exp()
    # 0 log 0 is 0: without the fill, a word masked in both models would make 0 * NaN.
    log_ratio = (reference_logprobs - logprobs).masked_fill_(reference == 0, 0.0)
    return log_ratio.mul_(reference).sum(-1), logprobs.exp().sub_(reference)


def kl_policy_to_reference(logprobs: Tensor, reference_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q) = sum_v p_v (log p_v - log q_v), whose gradient by the policy's logits is p (log p - log q - KL).

    What the text of ASFT (arXiv 2509.23753) has.
    """
    policy = logprobs.exp()
    log_ratio = (logprobs - reference_logprobs).masked_fill_(policy == 0, 0.0)
    values = (policy * log_ratio).sum(-1)
    return values, log_ratio.sub_(values[:, None]).mul_(policy)
