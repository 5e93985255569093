# SPDX-License-Identifier: GPL-2.0
"""Feed a parser what libFuzzer thinks of, guided by what it executes: `python -m tests.fuzz NAME`.

Ends after --seconds, or with the input that made the parser raise what it must not. Needs atheris
(`make fuzz` installs it).
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence

import atheris

with atheris.instrument_imports(include=["guests", "kconfig"]):
    from guests.frames import Decoder, ProtocolError, encode
    from kconfig import ConfigurationError
    from kconfig.configuration import parse

SHORT_S = 30


def messages(data: bytes) -> None:
    """What a guest sends: messages that can be passed on, or ProtocolError."""
    with contextlib.suppress(ProtocolError):
        for message in Decoder().feed(data):
            str(encode(message)).encode()
    with contextlib.suppress(ProtocolError):  # the length is hard to guess
        Decoder().feed(len(data).to_bytes(4, "big") + data)


def configurations(data: bytes) -> None:
    """A .config: its symbols, or ConfigurationError."""
    with contextlib.suppress(ConfigurationError):
        parse(data.decode(errors="replace"), "fuzzed").lacks("CONFIG_KSM")


PARSERS: dict[str, Callable[[bytes], None]] = {
    "messages": messages,
    "configurations": configurations,
}


def main(words: Sequence[str]) -> None:
    """Fuzz; does not return."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parser", choices=PARSERS)
    parser.add_argument("--seconds", type=int, default=SHORT_S, metavar="N")
    options = parser.parse_args(words)
    limits = [f"-max_total_time={options.seconds}", "-rss_limit_mb=2048", "-timeout=10"]
    atheris.Setup([sys.argv[0], *limits], PARSERS[options.parser])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
