#!/usr/bin/env python3
"""Answers nfs-ganesha's registrations with "yes" on the Unix socket of rpcbind: without a registrar ganesha 4.3 serves
no NFSv3, and a real one would listen on every address. Clients are told the ports. usage: rpcbind.py SOCKET"""

import os
import socket
import struct
import sys
import threading


def exactly(connection, length):
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def answer(connection):
    try:
        while True:
            call, last = b"", False
            while not last:
                (mark,) = struct.unpack(">I", exactly(connection, 4))
                call += exactly(connection, mark & 0x7FFFFFFF)
                last = bool(mark >> 31)
            xid, _, _, _, _, procedure = struct.unpack(">6I", call[:24])
            reply = struct.pack(">6I", xid, 1, 0, 0, 0, 0) + (struct.pack(">I", 1) if procedure else b"")
            connection.sendall(struct.pack(">I", 0x80000000 | len(reply)) + reply)
    except (EOFError, OSError):
        pass


listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o600)
listener.listen(16)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=answer, args=(connection,), daemon=True).start()
