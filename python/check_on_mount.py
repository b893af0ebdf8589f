"""Checks of millrace_ahead on a mount: python3 check_on_mount.py MOUNT [TEST]. Plain Python; the base class that
PyTorch's samplers have stands in for itself."""

import errno
import fcntl
import os
import random
import sys
import threading
import time
import unittest

from millrace_ahead import Ahead, AheadSampler, _command

MOUNT = sys.argv[1]


class Sampler:
    """What torch.utils.data.Sampler asks of a sampler."""

    def __init__(self, length):
        self.order, self.epoch = list(range(length)), 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        random.Random(self.epoch).shuffle(self.order)
        return iter(self.order)

    def __len__(self):
        return len(self.order)


def files():
    return [os.path.join(d, f) for d in sorted(os.listdir(MOUNT)) for f in sorted(os.listdir(os.path.join(MOUNT, d)))]


class OnMount(unittest.TestCase):
    def test_a_shuffle_is_read_ahead_of(self):
        paths = [os.path.join(MOUNT, path) for path in files()]
        sampler = AheadSampler(Sampler(len(paths)), paths, MOUNT, window=100)
        self.assertEqual(len(sampler), len(paths))
        sampler.set_epoch(3)
        self.assertEqual(sampler.sampler.epoch, 3)
        seen, begun = [], time.monotonic()
        # As a loader does: samples are drawn ahead of being read, by workers who share the order.
        lock, iterator = threading.Lock(), iter(sampler)

        def work():
            while True:
                with lock:
                    index = next(iterator, None)
                if index is None:
                    return
                with open(paths[index], "rb") as file:
                    self.assertEqual(len(file.read()), 100_000)
                seen.append(index)

        workers = [threading.Thread(target=work) for _ in range(2)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        self.assertEqual(sorted(seen), list(range(len(paths))))
        expected = Sampler(len(paths))
        expected.set_epoch(3)
        self.assertNotEqual(seen, sorted(seen))
        progress = sampler._ahead.progress()
        print(f"shuffled: {len(seen) / (time.monotonic() - begun):.0f} files/s, {progress}", flush=True)
        self.assertEqual((progress["announced"], progress["read"]), (len(paths), len(paths)))
        self.assertEqual(progress["position"], len(paths))

    def test_batches_are_announced_file_by_file(self):
        sampler = AheadSampler([[0, 1], [2]], ["x/0", "x/1", "x/2"], MOUNT)
        self.assertEqual(list(sampler), [[0, 1], [2]])
        self.assertEqual(sampler._ahead.progress()["announced"], 3)
        # An iteration is an order anew.
        self.assertEqual(list(sampler), [[0, 1], [2]])
        self.assertEqual(sampler._ahead.progress()["announced"], 3)

    def test_what_has_no_room_is_left(self):
        many = [f"some/directory/{number:08}" for number in range(100_000)]
        with Ahead(MOUNT) as ahead:
            taken = ahead.announce(many)
            self.assertTrue(1000 < taken < len(many), taken)
            self.assertEqual(ahead.progress()["announced"], taken)
            self.assertEqual(ahead.announce(many[taken:]), 0)
            self.assertEqual(ahead.replace(many[:5]), 5)
            self.assertEqual(ahead.progress()["announced"], 5)

    def test_a_mount_without_it_is_read_all_the_same(self):
        self.assertIsNone(Ahead.open("/"))
        self.assertEqual(list(AheadSampler([2, 0, 1], ["a", "b", "c"], "/")), [2, 0, 1])

    def test_the_directory_takes_orders_too_and_other_files_none(self):
        directory = os.open(os.path.join(MOUNT, ".millrace"), os.O_RDONLY)
        path = bytearray(b"a/b\n")
        self.assertEqual(fcntl.ioctl(directory, _command(1, len(path)), path), len(path))
        os.close(directory)
        with open(os.path.join(MOUNT, files()[0]), "rb") as file:
            for number in (1, 3):
                with self.assertRaises(OSError) as raised:
                    fcntl.ioctl(file.fileno(), _command(number, len(path)), path)
                self.assertEqual(raised.exception.errno, errno.ENOTTY)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
