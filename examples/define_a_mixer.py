"""A sequence mixer of your own: written once as a recurrence, then explained, verified, proved, and used.

The memory S erases along one direction (e) and writes along another (k); a strong gate g forgets everything.
"""

import torch

import mixer_ir as mx


@mx.recurrence
def erase_and_write(
    S: mx.State("k v"),
    q: "b t h k",
    k: "b t h k",
    e: "b t h k",
    v: "b t h v",
    g: "b t h",
    beta: "b t h",
):
    """S_t = exp(g_t) (I − β_t e_t e_tᵀ) S_{t−1} + k_t v_tᵀ,   y_t = S_tᵀ q_t"""
    S = mx.exp(g) * (S - beta * mx.outer(e, e @ S)) + mx.outer(k, v)
    return S, q @ S


def signals(b: int = 2, t: int = 100, h: int = 2, k: int = 16, v: int = 16) -> dict[str, torch.Tensor]:
    """Random inputs: unit-norm directions, decays below one, erasing strengths between 0 and 1."""
    unit = lambda: torch.nn.functional.normalize(torch.randn(b, t, h, k), dim=-1)  # noqa: E731
    return {
        "q": unit(),
        "k": unit(),
        "e": unit(),
        "v": torch.randn(b, t, h, v),
        "g": -torch.rand(b, t, h),
        "beta": torch.rand(b, t, h),
    }


def main() -> None:
    torch.manual_seed(0)
    print(erase_and_write, "\n")

    f = mx.compile(erase_and_write)
    s = signals()
    print(f.explain(**s), "\n")
    print(mx.verify(erase_and_write), "\n")
    print(mx.prove(erase_and_write), "\n")

    y = f(**s)  # the form that is fastest here; differentiable in every signal
    M = f.matrix(**s)  # (b h t s): y[b, :, h] = M[b, h] @ v[b, :, h]
    print("y = M v up to", float((torch.einsum("bhts,bshv->bthv", M, s["v"]) - y).abs().max()))

    _, state = f.prefill(**{name: x[:, :60] for name, x in s.items()})
    for t in range(60, 100):  # decoding: one step at a time from the state that prefill left
        y_t, state = f.step(state, **{name: x[:, t] for name, x in s.items()})
    print("prefill + 40 steps = whole up to", float((y_t - y[:, -1]).abs().max()))


if __name__ == "__main__":
    main()
