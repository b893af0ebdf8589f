"""Tells a Millrace mount in what order files will be read, so that they are fetched before they are.

No dependencies. A mount that is not Millrace's, or whose `announce` option is off, is read as if nothing had been said:
`Ahead.open` returns None there, and `AheadSampler` only passes on.

    with Ahead("/data") as ahead:          # the root of the mount; it may be read-only
        ahead.announce(["train/a.jpg", "train/b.jpg"])
        print(ahead.progress())
"""

import collections
import errno
import fcntl
import itertools
import os

# _IOC(_IOC_WRITE, 'M', number, size): a size has 14 bits.
_LONGEST = (1 << 14) - 1
_NEXT, _ANEW = 1, 2


def _command(number, size):
    return 1 << 30 | size << 16 | ord("M") << 8 | number


class Ahead:
    """An order of files of one mount. It ends when this is closed."""

    def __init__(self, mount):
        """`mount`: the root of a Millrace mount. FileNotFoundError where it is none, or takes no orders."""
        self.mount = os.path.abspath(mount)
        directory = os.path.join(self.mount, ".millrace")
        # Where files are opened without the driver (NO_OPEN), only the directory can be told.
        self._descriptors = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY)]
        try:
            self._descriptors.insert(0, os.open(os.path.join(directory, "ahead"), os.O_RDONLY))
            fcntl.ioctl(self._descriptors[0], _command(_NEXT, 1), bytearray(b"\n"))
            os.close(self._descriptors.pop())
        except OSError as error:
            if error.errno != errno.ENOTTY:
                self.close()
                raise
            os.close(self._descriptors.pop(0))

    @classmethod
    def open(cls, mount):
        """As `Ahead(mount)`, or None where the mount takes no orders."""
        try:
            return cls(mount)
        except OSError:
            return None

    def announce(self, paths):
        """These files come next: paths below the mount's root, or absolute ones in it.

        Returns how many were taken: fewer than given where the mount has no room for more before some are read. Give
        the rest again later."""
        return self._say(_NEXT, list(paths))

    def replace(self, paths):
        """As `announce`, in place of all before."""
        self._ioctl(_ANEW, b"\n")
        return self.announce(paths)

    def progress(self):
        """How far it is: `announced`, `refused` (no paths), `read`, `position` (behind the furthest that was read),
        `ahead` (behind the last that was asked for), `room` (bytes of paths). Empty on a mount without opens."""
        try:
            text = os.pread(self._descriptors[0], 4096, 0).decode()
        except IsADirectoryError:
            return {}
        return {word: int(value) for word, value in (line.split() for line in text.splitlines())}

    def close(self):
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _line(self, path):
        path = os.fsencode(os.path.relpath(path, self.mount) if os.path.isabs(path) else path)
        # What cannot be said in a line is read all the same.
        return b"\n" if b"\n" in path or len(path) >= _LONGEST else path + b"\n"

    def _say(self, number, paths):
        taken = 0
        while taken < len(paths):
            lines, size = [], 0
            for path in itertools.islice(paths, taken, None):
                line = self._line(path)
                if size + len(line) > _LONGEST:
                    break
                lines.append(line)
                size += len(line)
            accepted = self._ioctl(number, b"".join(lines))
            if accepted < size:
                ends = itertools.accumulate(map(len, lines))
                return taken + sum(1 for end in ends if end <= accepted)
            taken += len(lines)
        return taken

    def _ioctl(self, number, data):
        # A bytearray: Python copies at most 1,024 bytes of anything else.
        return fcntl.ioctl(self._descriptors[0], _command(number, len(data)), bytearray(data))


class AheadSampler:
    """A sampler that announces what it samples; otherwise the one it was given.

    `sampler` yields indices (or lists of them, as batch samplers do), `paths[index]` is the file of one (a sequence or
    a function), and about `window` files are announced ahead of what was yielded. Every iteration is an order anew.
    Any process may iterate, also one that forks afterwards.
    """

    def __init__(self, sampler, paths, mount, window=2048):
        self.sampler, self.mount, self.window = sampler, mount, window
        self._path = paths if callable(paths) else paths.__getitem__
        self._ahead = None

    def __len__(self):
        return len(self.sampler)

    def __getattr__(self, name):
        # `set_epoch` and whatever else the sampler has.
        if name.startswith("__") or "sampler" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __iter__(self):
        # Not closed at the end, when the last files are still to be read; workers that were forked hold it too.
        self._ahead = self._ahead or Ahead.open(self.mount)
        if self._ahead is None:
            yield from self.sampler
            return
        self._ahead.replace([])
        indices, sampled, waiting, before = iter(self.sampler), collections.deque(), [], 0
        while True:
            # Half a window at a time: a call tells of many files.
            if before <= self.window // 2:
                for sample in itertools.islice(indices, max(1, self.window - before)):
                    files = [self._path(index) for index in _each(sample)]
                    sampled.append((sample, len(files)))
                    waiting.extend(files)
                    before += len(files)
                    if before >= self.window:
                        break
                del waiting[: self._ahead.announce(waiting)]
            if not sampled:
                return
            sample, files = sampled.popleft()
            before -= files
            yield sample


def _each(sample):
    return sample if isinstance(sample, (list, tuple)) else (sample,)
