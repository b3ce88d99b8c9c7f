"""Whether an encoder is the one that a memory was written with."""

from __future__ import annotations

import copy

from mllm_plugin.encoders.identity import AGREEMENT, Sample, agreement, is_anonymous, sample_of
from mllm_plugin.errors import EncoderMismatchError
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.store.database import Database
from mllm_plugin.store.settings import Settings, load_probes


def recognised(encoder: TextEncoder, settings: Settings, database: Database) -> TextEncoder:
    """The encoder under the name that the memory has for it.

    A fingerprint that somebody gave decides alone. One that was made up of class and settings may be the same
    for two models and differ for one, so there the vectors decide.

    Raises:
        EncoderMismatchError: It is another one.
    """
    named = encoder.fingerprint == settings.fingerprint
    if is_anonymous(encoder) and encoder.dim == settings.dim:
        with database.read() as tx:
            stored = load_probes(tx, settings.dim)
        if stored is not None:
            cosine = agreement(encoder, stored)
            if cosine < AGREEMENT:
                raise EncoderMismatchError(_other_vectors(encoder, settings, stored, cosine, database))
            return encoder if named else _renamed(encoder, settings.fingerprint)
    if not named or encoder.dim != settings.dim:
        widths = "" if encoder.dim == settings.dim else f" ({encoder.dim} dimensions for {settings.dim})"
        raise EncoderMismatchError(
            f"the memory at {database.folder} was written with encoder {settings.fingerprint!r}, got "
            f"{encoder.fingerprint!r}{widths}{_way_out(encoder, settings)}"
        )
    return encoder


def _renamed(encoder: TextEncoder, fingerprint: str) -> TextEncoder:
    """A copy, since the caller may have the encoder in other memories."""
    known = copy.copy(encoder)
    known.fingerprint = fingerprint
    return known


def _other_vectors(
    encoder: TextEncoder, settings: Settings, stored: Sample, cosine: float, database: Database
) -> str:
    problem = (
        f"the memory at {database.folder} was written with encoder {settings.fingerprint!r}, and what "
        f"{encoder.fingerprint!r} makes of {len(stored.texts)} texts differs from what is stored of them: "
        f"cosine {cosine:.3f}, expected {AGREEMENT} or more"
    )
    again = agreement(encoder, sample_of(encoder))
    if again < AGREEMENT:
        problem += f" (it gives other vectors for the same text each time it is asked, cosine {again:.3f})"
    return problem + _way_out(encoder, settings)


def _way_out(encoder: TextEncoder, settings: Settings) -> str:
    rescue = ""
    if hasattr(encoder, "anonymous") and encoder.dim == settings.dim:
        rescue = (
            f"; if you know that it is the same model, say so with FrameworkEncoder(model, "
            f"fingerprint={settings.fingerprint!r})"
        )
    return (
        f". Vectors of two encoders do not compare: open it with the first, or make a copy whose texts are "
        f"embedded anew with reembed(memory, path, encoder) or `mllm reembed`{rescue}"
    )
