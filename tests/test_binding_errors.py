"""Bad input gets a sentence that names what is wrong, where it came from, and the way on; never a wrong result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mixer_ir as mx

B, T, H, K, V = 2, 6, 2, 3, 4


@mx.recurrence
def memory(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h"):
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def bent(h: mx.State("k"), x: "b t k"):
    h = mx.tanh(h + x)
    return h, h


@mx.mixer
def filtered(w: "t", v: "b t v"):
    return mx.toeplitz(w) @ v


@pytest.fixture
def s():
    shapes = {"q": (B, T, H, K), "k": (B, T, H, K), "v": (B, T, H, V), "g": (B, T, H)}
    return {n: -torch.rand(shape) for n, shape in shapes.items()}


@pytest.fixture
def f():
    return mx.compile(memory)


def refused(error, call, *words):
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, mx.MixerError)
    text = str(caught.value)
    for word in words:
        assert word in text, f"{word!r} is not in: {text}"
    assert "\n" not in text


def test_a_wrong_size_names_signal_axis_both_sizes_and_their_origins(f, s):
    s["k"] = torch.randn(B, T, H, 4)
    refused(mx.AxisError, lambda: f(**s), "k has axes (b t h k) with k = 4, but q gives k = 3 (both must agree)")


def test_a_size_of_one_does_not_broadcast(f, s):
    s["g"] = torch.randn(B, T, 1)
    refused(mx.AxisError, lambda: f(**s), "g has axes (b t h) with h = 1, but q gives h = 2")


def test_a_wrong_number_of_dimensions(f, s):
    s["v"] = torch.randn(B, T, V)
    refused(mx.AxisError, lambda: f(**s), "v has axes (b t h v), that is 4 dimensions", "3 dimensions: (2, 6, 4)")


def test_a_missing_and_an_unknown_signal(f, s):
    less = {n: x for n, x in s.items() if n != "g"}
    refused(mx.SignalError, lambda: f(**less), "memory is called without g", "q (b t h k)")
    refused(mx.SignalError, lambda: f(**s, gg=s["g"]), "no signal 'gg' (did you mean 'g'?)", "q (b t h k)")
    refused(mx.SignalError, lambda: f(**s, retrun_state=True), "'retrun_state' (did you mean 'return_state'?)")
    refused(mx.SignalError, lambda: f(s["q"]), "by name", "memory(q=…")


def test_what_is_not_a_tensor(f, s):
    refused(mx.SignalError, lambda: f(**{**s, "g": "zero"}), "g is str; a signal is a tensor")
    as_arrays = {n: x.numpy() for n, x in s.items()}
    torch.testing.assert_close(f(**as_arrays), f(**s))
    refused(mx.SignalError, lambda: f(**{**as_arrays, "q": np.array(["a"])}), "q is ndarray")


def test_dtypes_that_do_not_go_together(f, s):
    refused(mx.SignalError, lambda: f(**{**s, "k": s["k"].double()}), "k is float64, but q is float32; cast one")
    refused(mx.SignalError, lambda: f(**{n: x.to(torch.float8_e5m2) for n, x in s.items()}), "q is torch.float8_e5m2")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_low_precision_is_computed_in_single_and_handed_back(f, s, dtype, tolerance):
    low = {n: x.to(dtype) for n, x in s.items()}
    y = f(**low)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), f(**{n: x.float() for n, x in low.items()}), rtol=tolerance, atol=tolerance)
    assert f(**{**low, "q": s["q"]}).dtype == torch.float32
    refused(mx.SignalError, lambda: f(**{**low, "q": s["q"].double()}), f"k is {str(dtype)[6:]}, but q is float64")


def test_devices_that_do_not_go_together(f, s):
    refused(mx.SignalError, lambda: f(**{**s, "v": s["v"].to("meta")}), "v is on meta, but q is on cpu")


def test_tensors_without_values_side_by_side(f, s):
    refused(mx.SignalError, lambda: f(**{n: x.to("meta") for n, x in s.items()}), "q is on the device meta", "on cpu")
    refused(mx.SignalError, lambda: f(**{**s, "g": s["g"].to_sparse()}), "g is a sparse_coo tensor", "g.to_dense()")
    nested = torch.nested.nested_tensor(list(s["g"]), layout=torch.jagged)
    refused(mx.SignalError, lambda: f(**{**s, "g": nested}), "g is a nested tensor", "cu_seqlens=")


def test_an_empty_sequence(f, s):
    refused(mx.AxisError, lambda: f(**{n: x[:, :0] for n, x in s.items()}), "q has axes (b t h k) with t = 0")
    refused(mx.AxisError, lambda: f(**{n: x[:0] for n, x in s.items()}), "b = 0: no axis may be empty")


def test_unknown_options_forms_and_backends(f):
    refused(mx.OptionError, lambda: mx.compile(memory, chunk_sise=16), "no option 'chunk_sise'", "options: chunk")
    refused(mx.OptionError, lambda: mx.compile(memory, form="chunkd"), "no form 'chunkd' (did you mean 'chunked'?)")
    refused(mx.OptionError, lambda: mx.compile(memory, backend="eagr"), "no backend 'eagr'", "eager", "reference")
    refused(mx.OptionError, lambda: mx.compile(memory, backend=None), "no backend None")
    refused(mx.OptionError, f.kernels, "no target ''", "sm_90")
    refused(mx.OptionError, lambda: mx.compile(lambda q: q), "mx.compile takes a mixer")
    refused(mx.OptionError, lambda: f.kernels("sm90"), "no target 'sm90' (did you mean 'sm_90'?)")


@pytest.mark.parametrize("chunk", [0, -1, 1.5, "16", True])
def test_a_chunk_is_a_whole_number_from_one(chunk):
    refused(mx.OptionError, lambda: mx.compile(memory, chunk=chunk), f"chunk = {chunk!r}", "a whole number from 1")


def test_a_chunk_longer_than_the_sequence_is_cut_to_it(f, s):
    torch.testing.assert_close(mx.compile(memory, form="chunked", chunk=1000)(**s), f(**s))


def test_a_form_that_is_not_legal_says_why_and_lists_those_that_are():
    refused(
        mx.FormError,
        lambda: mx.compile(memory, form="fft"),
        "memory has no form 'fft': its transition depends on t through g; legal forms: recurrent, chunked",
    )
    refused(mx.FormError, lambda: mx.compile(memory, form="flash"), "no softmax")
    refused(mx.FormError, lambda: mx.compile(bent, form="chunked"), "bent has no form 'chunked'", "tanh", "recurrent")


def test_states_that_do_not_fit(f, s):
    refused(mx.StreamError, lambda: f(**s, initial_state={"R": s["q"]}), "memory has no state 'R'", "S (b h k v)")
    refused(mx.StreamError, lambda: f(**s, initial_state={"S": s["q"]}), "the state S of memory has axes (b h k v)")
    state = {"S": torch.zeros(B, H, K, V, dtype=torch.float64)}
    refused(mx.StreamError, lambda: f(**s, initial_state=state), "the state S is torch.float64")
    refused(mx.StreamError, lambda: f(**s, initial_state=torch.zeros(1)), "a dictionary of tensors by name")
    refused(mx.StreamError, lambda: f(**s, initial_state={"S": 1.0}), "the state S of memory is float, not a tensor")


def test_a_step_takes_signals_without_their_time_axis(f, s):
    refused(mx.SignalError, lambda: f.step(None, **s), "q is given to step with 4 dimensions", "(b h k)")
    at = {n: x[:, 0] for n, x in s.items()}
    refused(mx.StreamError, lambda: f.step(**at), "step needs the state", "None at the start")
    refused(mx.SignalError, lambda: f.step(None, **{n: x for n, x in at.items() if n != "k"}), "called without k")
    refused(mx.AxisError, lambda: f.step(None, **{**at, "k": torch.zeros(B, H, 5)}), "k = 5, but q gives k = 3")


def test_the_matrix_of_what_is_none_and_of_unknown_length(f, s):
    refused(mx.MixerError, lambda: mx.compile(bent).matrix(x=torch.randn(B, T, K)), "bent")
    refused(mx.SignalError, lambda: f.matrix(q=s["q"], k=s["k"]), "without g")


def test_a_reset_has_one_truth_value_a_step(f, s):
    refused(
        mx.AxisError, lambda: f(**s, reset=torch.zeros(B, T + 1, dtype=torch.bool)), "reset has axes (b t)", "t = 7"
    )


def test_an_axis_that_is_unknown_to_explain(f):
    refused(mx.AxisError, lambda: f.explain(z=3), "memory has no axis 'z'; its axes: b, t, h, k, v")
    refused(mx.AxisError, lambda: f.explain(t=0), "t = 0")
    refused(mx.AxisError, lambda: f.explain(t="many"), "t = 'many'", "a whole number from 1")
    refused(mx.AxisError, lambda: f.explain(q=torch.zeros(B, T, H, K), t=3), "not both: t is an axis of memory")


@mx.mixer
def looked_up(codes: "c k", z: "b t", v: "b t v"):
    return mx.causal(mx.lowrank(mx.take(codes, z, axis="c"), mx.take(codes, z, axis="c"))) @ v


@mx.mixer
def attention(q: "b t k", k: "b t k", v: "b t v"):
    return mx.softmax(mx.causal(mx.lowrank(q, k))) @ v


def test_an_index_holds_whole_numbers_that_the_table_has():
    f, codes, v = mx.compile(looked_up), torch.randn(5, K), torch.randn(B, T, V)
    words = "z is float32, but it is an index along c: give whole numbers of an integer dtype, as in z.long()"
    refused(mx.SignalError, lambda: f(codes=codes, z=torch.rand(B, T), v=v), words)
    z = torch.arange(B * T).reshape(B, T)
    refused(mx.SignalError, lambda: f(codes=codes, z=z, v=v), "z goes from 0 to 11", "it must lie in 0 … 4")
    assert f(codes=codes, z=z % 5, v=v).shape == v.shape


def test_complex_numbers_have_no_order(s):
    x = torch.randn(B, T, K, dtype=torch.complex64)
    v = torch.randn(B, T, V)
    refused(mx.SignalError, lambda: mx.compile(attention)(q=x, k=x, v=v), "the softmax of complex numbers", "q, k")
    refused(mx.SignalError, lambda: mx.compile(attention).matrix(q=x, k=x, v=v), "the softmax of complex numbers")


@mx.recurrence
def rectified(h: mx.State("n"), x: "b t n"):
    h = mx.relu(h) + x
    return h, h


@pytest.mark.parametrize("fn", ["relu", "elu", "gelu", "erf", "clamp"])
def test_functions_of_real_numbers_alone_are_named(fn):
    limits = (-1, 1) if fn == "clamp" else ()

    @mx.mixer
    def scaled(x: "b t", v: "b t"):
        return mx.diagonal(getattr(mx, fn)(x, *limits)) @ v

    x = torch.randn(B, T, dtype=torch.complex64)
    refused(mx.SignalError, lambda: mx.compile(scaled)(x=x, v=x.real), f"the {fn} of complex numbers", ": x")


def test_a_state_that_complex_signals_make_complex_has_no_order():
    x = torch.randn(B, T, K, dtype=torch.complex64)
    refused(mx.SignalError, lambda: mx.compile(rectified)(x=x), "rectified takes the relu of complex numbers", ": x")


@mx.recurrence
def spiral(h: mx.State("n"), x: "b t", decay: "n", angle: "n"):
    h = mx.exp(mx.complex(decay, angle)) * h + x
    return h, mx.real(mx.sum(h, "n"))


def test_the_parts_of_a_complex_number_are_real():
    signals = {"x": torch.randn(B, T), "decay": torch.randn(3, dtype=torch.complex64), "angle": torch.randn(3)}
    refused(
        mx.SignalError,
        lambda: mx.compile(spiral)(**signals),
        "spiral makes mx.complex(re, im) of complex numbers",
        "both parts are real: decay",
    )


@mx.mixer
def biased(q: "b t k", k: "b s k", v: "b s v", table: "c"):
    lag = mx.clamp(mx.index("t") - mx.index("s"), -2, 2)
    return mx.softmax(mx.lowrank(q, k) + mx.dense(mx.take(table, lag + 1, axis="c"))) @ v


@mx.mixer
def halved(codes: "c v", z: "b t", v: "b t v"):
    return mx.identity() @ v + mx.take(codes, z // 2 - 1, axis="c")


def test_an_index_that_is_worked_out_stays_in_the_table_too():
    s = {"q": torch.randn(B, 2, K), "k": torch.randn(B, 3, K), "v": torch.randn(B, 3, V)}
    f = mx.compile(biased)
    refused(mx.SignalError, lambda: f(**s, table=torch.randn(5)), "+ 1 goes from -1 to 2", "table has c = 5")
    more = {**s, "k": s["k"][:, :2], "v": s["v"][:, :2]}
    assert f(**more, table=torch.randn(5)).shape == (B, 2, V)
    refused(mx.SignalError, lambda: f(**more, table=torch.randn(2)), "from 0 to 2", "0 … 1")
    refused(mx.SignalError, lambda: f.matrix(**more, table=torch.randn(2)), "from 0 to 2")
    f, v, z = mx.compile(halved), torch.randn(B, T, V), torch.full((B, T), 7)
    assert f(codes=torch.randn(3, V), z=z, v=v).shape == v.shape
    refused(mx.SignalError, lambda: f(codes=torch.randn(2, V), z=z, v=v), "from 2 to 2, but codes has c = 2")
    refused(mx.SignalError, lambda: f(codes=torch.randn(2, V), z=0 * z, v=v), "from -1 to -1")


@mx.recurrence
def dense_step(S: mx.State("n"), A: "m n", u: "b t d") -> "b t d":
    S = mx.rename(A @ S, m="n") + u
    return S, mx.sum(S, "n")


@mx.mixer
def aligned_wrongly(q: "b t k", k: "b s k", v: "b s v"):
    lag = mx.index("t") - mx.source(mx.index("t"))
    return mx.softmax(mx.lowrank(q, k) + mx.dense(lag)) @ v


def test_an_axis_that_is_renamed_has_the_size_of_its_new_name():
    refused(
        mx.AxisError,
        lambda: mx.compile(dense_step)(A=torch.randn(4, 3), u=torch.randn(B, T, V)),
        "dense_step renames the axis m of", "to n, but m = 4 and n = 3",
    )  # fmt: skip
    s = {"q": torch.randn(B, T, K), "k": torch.randn(B, 3, K), "v": torch.randn(B, 3, V)}
    hint = "t = 6 and s = 3; for the position of the source write mx.index('s')"
    refused(mx.AxisError, lambda: mx.compile(aligned_wrongly)(**s), hint)
    refused(mx.AxisError, lambda: mx.compile(aligned_wrongly).matrix(**s), hint)


@mx.recurrence
def turning(S: mx.State("n"), a: "n", u: "b t"):
    S = mx.exp(a) * S + u
    return S, mx.real(mx.sum(S, "n"))


def test_the_matrix_of_a_real_part_is_for_a_real_signal():
    f, a, u = mx.compile(turning), torch.randn(3, dtype=torch.complex64) - 1, torch.randn(B, T)
    torch.testing.assert_close(torch.einsum("ts,bs->bt", f.matrix(a=a, u=u), u), f(a=a, u=u))
    refused(mx.SignalError, lambda: f.matrix(a=a, u=u + 1j), "it has a matrix for real u")


def test_what_is_given_to_verify_prove_and_plot(s):
    for word in ("verify", "prove", "plot"):
        refused(mx.OptionError, lambda word=word: getattr(mx, word)("memory"), f"mx.{word} takes a mixer", "not str")
    refused(mx.FormError, lambda: mx.verify(memory, forms=["fft"]), "memory has no form 'fft'")
    refused(mx.OptionError, lambda: mx.verify(memory, backends=["numpy"]), "no backend 'numpy'")
    refused(mx.OptionError, lambda: mx.verify(memory, lengths=(0,)), "lengths = (0,)", "whole number from 1")
    refused(mx.OptionError, lambda: mx.verify(memory, lengths=()), "a list of numbers, each a whole number")
    refused(mx.OptionError, lambda: mx.verify(memory, lengths=3), "lengths = 3", "a list of numbers")
    refused(mx.OptionError, lambda: mx.verify(memory, forms="chunked"), "several names, as in forms=['chunked']")
    refused(mx.OptionError, lambda: mx.verify(memory, backends="eager"), "as in backends=['eager']")
    refused(mx.OptionError, lambda: mx.verify(memory, chunks=(2.0,)), "chunks = (2.0,)")
    refused(mx.AxisError, lambda: mx.verify(memory, sizes={"z": 2}), "memory has no axis 'z'; its axes: b, t, h")
    refused(mx.SignalError, lambda: mx.verify(memory, signals={"w": s["q"]}), "memory has no signal 'w'")
    refused(mx.AxisError, lambda: mx.verify(memory, signals={"q": s["g"]}), "q has axes (b t h k)", "3 dimensions")
    refused(mx.OptionError, lambda: mx.plot(memory, length=0), "length = 0")


@mx.mixer
def given_whole(m: "b t s", v: "b t"):
    return mx.causal(mx.dense(m)) @ v


def test_a_matrix_has_as_many_columns_as_steps() -> None:
    f = mx.compile(given_whole)
    for call in (f, f.prefill):
        with pytest.raises(mx.AxisError, match=r"v_t over t = 3, but m has s = 5 columns: give s = 3, or apply it"):
            call(m=torch.randn(1, 3, 5), v=torch.randn(1, 3))
