"""The fuzzer itself: it draws real mixers, sees what is wrong, and makes it small."""

from __future__ import annotations

import lowering.blocks
import mixer_ir as mx
from tests import fuzz
from tests.random_mixers import Piece, draw


def test_random_mixers_are_right_in_every_form():
    tally = fuzz.fuzz(60, seed=7, quiet=True)
    assert tally.mixers == 60 and tally.wrong == 0


def test_most_draws_are_mixers_and_all_kinds_turn_up():
    built, text = 0, ""
    for seed in range(120):
        d = draw(seed)
        text += str(d)
        try:
            assert isinstance(d.build(), mx.Mixer)
            built += 1
        except mx.MixerError:
            continue
    assert built >= 110
    words = (
        "softmax(",
        "toeplitz(",
        "flip(",
        "normalize(",
        "semiseparable(",
        "complex(",
        "State(",
        "low_rank=",
        "monarch(",
        "Z0",
        '"s k"',
        "R: mx.State(",
        "@ S ",
        ".T",
    )
    assert [w for w in words if w not in text] == []


def test_equal_seeds_draw_equal_mixers():
    assert str(draw(5)) == str(draw(5)) != str(draw(6))


def test_a_piece_shrinks_to_its_parts():
    inner = Piece("matrix", "M")
    outer = Piece("matrix", "mx.flip({0})", (Piece("matrix", "({0} + {1})", (inner, Piece("matrix", "N"))),))
    smaller = {str(p) for p in outer.smaller()}
    assert {"M", "N", "(M + N)", "mx.flip(M)", "mx.flip(N)"} == smaller


def test_a_broken_lowering_is_found_and_made_small(monkeypatch, capsys):
    old = lowering.blocks.Blocks.leaving

    def leaving(self, column):
        return self.b.map("neg", old(self, column))

    monkeypatch.setattr(lowering.blocks.Blocks, "leaving", leaving)
    monkeypatch.setattr(fuzz, "shrunk", lambda found, seconds=5.0, shrunk=fuzz.shrunk: shrunk(found, 5.0))
    assert fuzz.main(["--count", "40", "--seed", "3"]) == 1
    told = capsys.readouterr().out
    assert "MISMATCH" in told and "def drawn(" in told and "seed" in told
