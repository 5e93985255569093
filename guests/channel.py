# SPDX-License-Identifier: GPL-2.0
"""This end of the channel to the agent."""

import select
import socket
from collections import deque

from guests.frames import MAX_CHUNK, Decoder, Message

SEND_TIMEOUT_S = 60  # the guest takes what it is sent within this time, or hangs


class ChannelClosed(Exception):
    """The other side has gone, or takes nothing any more."""


class Channel:
    """Sends and receives messages over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(SEND_TIMEOUT_S)
        self._decoder = Decoder()
        self._arrived: deque[Message] = deque()

    def send(self, data: bytes) -> None:
        """Send an encoded message, or bytes that one has announced. Raises ChannelClosed."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ChannelClosed(f"it could not be sent to: {error}") from error

    def receive(self, timeout_s: float, also: int | None = None) -> Message | None:
        """The next message; None when none came in time or the descriptor `also` can be read.

        Raises ChannelClosed, or ProtocolError for what is no message.
        """
        watched: list[socket.socket | int] = [self._socket]
        if also is not None:
            watched.append(also)
        while not self._arrived:
            ready, _, _ = select.select(watched, (), (), timeout_s)
            if self._socket not in ready:
                return None
            try:
                data = self._socket.recv(MAX_CHUNK)
            except OSError as error:
                raise ChannelClosed(f"the connection broke: {error}") from error
            if not data:
                raise ChannelClosed("the connection was closed")
            self._arrived.extend(self._decoder.feed(data))
        return self._arrived.popleft()
