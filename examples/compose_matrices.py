"""Mixers as matrices: what is added, multiplied and turned round is compiled, with its forms found by algebra.

Each mixer is checked against the matrix that it names; `explain` says which forms the algebra has found for it.
"""

import torch

import mixer_ir as mx


@mx.mixer
def taylor_and_window(q: "b t h k", k: "b t h k", v: "b t h v"):
    """exp(x) to second order, which a state of 1 + k + k² numbers holds, beside exact softmax over the last 16 steps"""
    A = mx.lowrank(q, k)
    far = mx.normalize(mx.causal(mx.lowrank(1, 1, over="") + A + A * A / 2))
    near = mx.softmax(mx.band(A, 16))
    return (far + near) @ v


@mx.mixer
def two_memories(q: "b t h k", k: "b t h k", v: "b t h v", past: "b t h", future: "b t h k"):
    """the past forgotten by the head, the future by the channel: a quasiseparable matrix with two different halves"""
    left = mx.semiseparable(q, mx.sigmoid(past), k)
    right = mx.semiseparable(q, mx.sigmoid(future), k)
    return (left + mx.flip(mx.shift(right))) @ v


@mx.mixer
def turning(q: "b t h k", k: "b t h k", v: "b t h v", angle: "b t h k"):
    """linear attention whose keys are turned by angles that the data choose: relative positions that are learned"""
    return mx.real(mx.semiseparable(q, mx.exp(1j * angle), k) @ v)


def main() -> None:
    torch.manual_seed(0)
    b, t, h, d = 1, 40, 2, 8
    s = {name: torch.randn(b, t, h, d) / d**0.5 for name in ("q", "k", "v", "future", "angle")}
    s["past"] = torch.randn(b, t, h)
    for mixer in (taylor_and_window, two_memories, turning):
        f, given = mx.compile(mixer), {name: s[name] for name in mixer.signals}
        y, M = f(**given), f.matrix(**given)
        off = float((torch.einsum("bhts,bshv->bthv", M, s["v"]) - y).abs().max())
        print(f"{mixer}\n  {mixer.traits}\n  forms: {', '.join(mixer.forms())}\n  y = M v up to {off:.1e}\n")


if __name__ == "__main__":
    main()
