"""A PyTorch DataLoader over a Millrace mount that is told each epoch's shuffle: python3 example_dataloader.py /data [/data/train]"""

import os
import sys

from torch.utils.data import DataLoader, Dataset, RandomSampler

from millrace_ahead import AheadSampler

class Files(Dataset):
    def __init__(self, root):
        self.paths = sorted(os.path.join(d, f) for d, _, files in os.walk(root) for f in files)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with open(self.paths[index], "rb") as file:
            return file.read()

if __name__ == "__main__":
    dataset = Files(sys.argv[-1])
    sampler = AheadSampler(RandomSampler(dataset), dataset.paths, mount=sys.argv[1])
    loader = DataLoader(dataset, sampler=sampler, batch_size=32, num_workers=4, collate_fn=list)
    for epoch in range(2):
        print(epoch, sum(len(data) for batch in loader for data in batch), "bytes", sampler._ahead and sampler._ahead.progress())
