"""Writes PyTorch checkpoints in the layout of the published ones, with inputs and the logits they have to give.

    python make_pth.py fixtures FOLDER     tiny networks for `tests/fixtures/pth`
    python make_pth.py stratified FOLDER   the networks of `data/golden/stratified` as Stratified checkpoints
    python make_pth.py s3dis FOLDER        the S3DIS network (3 908 641 parameters) in both containers and all
                                           prefix forms, 8 files of about 16 to 47 MB

Weights are seeded, not trained. Checkpoints are saved by PyTorch itself from modules nested as in the training codes,
with optimizer, scheduler and scaler state, so that a reader meets everything that stands in published files.
"""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ptv2 import S3DIS, PointTransformerV2, calibrate_norms, room

TINY = dict(
    S3DIS,
    num_classes=4,
    patch_embed_depth=1,
    patch_embed_channels=8,
    patch_embed_groups=2,
    patch_embed_neighbours=8,
    enc_depths=[1],
    enc_channels=[12],
    enc_groups=[3],
    enc_neighbours=[8],
    dec_depths=[1],
    dec_channels=[8],
    dec_groups=[4],
    dec_neighbours=[8],
    grid_sizes=[0.15],
    drop_path_rate=0.0,
)


class Wrapped(nn.Module):
    """A network inside a segmentor (`backbone`) or a distributed wrapper (`module`)."""

    def __init__(self, name, inner):
        super().__init__()
        setattr(self, name, inner)

    def forward(self, *inputs):
        return next(self.children())(*inputs)


def nest(model, levels):
    for name in reversed(levels):
        model = Wrapped(name, model)
    return model


def seeded(config, seed, batch):
    """A network with weights as at the start of training and norms as later on."""
    torch.manual_seed(seed)
    model = PointTransformerV2(config)
    calibrate_norms(model, batch, seed)
    return model


def one_step(model, batch, optimizer, scheduler):
    """Fills the states of the optimizer and the scheduler without changing the weights."""
    keep = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    model(*batch).square().mean().backward()
    optimizer.step()
    scheduler.step()
    model.load_state_dict(keep)
    model.eval()


def save(model, levels, batch, path, zipped, training=True, adam=True, one_cycle=False):
    """`training`: with everything that a training run keeps; otherwise only the state dict."""
    outer = nest(model, levels)
    if training:
        if adam:
            optimizer = torch.optim.AdamW(outer.parameters(), lr=0.006, weight_decay=0.05)
        else:
            optimizer = torch.optim.SGD(outer.parameters(), lr=0.05, momentum=0.9 if one_cycle else 0.0)
        if one_cycle:
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.005, total_steps=100, cycle_momentum=adam)
        else:
            scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[60, 80], gamma=0.1)
        scaler = torch.amp.GradScaler("cpu")
        one_step(outer, batch, optimizer, scheduler)
        content = dict(
            epoch=7,
            state_dict=outer.state_dict(),
            optimizer=optimizer.state_dict(),
            scheduler=scheduler.state_dict(),
            scaler=scaler.state_dict(),
            best_metric_value=np.float64(0.7261),
        )
    else:
        content = outer.state_dict()
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    print(f"{path.name}: {len(outer.state_dict())} entries, {path.stat().st_size} bytes")


def reference(model, batch, path):
    """The input and the logits of `model` in eval mode."""
    with torch.no_grad():
        logits = model(*batch)
    names = ("coord", "feat", "offset")
    save_file(dict(zip(names, batch)) | {"logits": logits.contiguous()}, path)
    print(f"{path.name}: logits up to {float(logits.abs().max()):.2f}, {path.stat().st_size} bytes")


def batch_of(sizes, seed):
    """Clouds of the given sizes: coordinates, features (coordinates and colours) and offsets."""
    parts = [room(n, seed + i) for i, n in enumerate(sizes)]
    coord = torch.cat([p for p, _ in parts])
    color = torch.cat([c for _, c in parts])
    return coord, torch.cat([coord, color], 1), torch.tensor(np.cumsum(sizes), dtype=torch.int32)


def odd_tensors():
    """Tensors that a reader may get wrong: shared storages, strides, offsets, types, no elements, no dimensions."""
    base = torch.arange(24, dtype=torch.float32)
    grid = base.view(4, 6)
    return OrderedDict(
        whole=grid,
        transposed=grid.t(),
        slice=grid[1:3, 2:5],
        column=grid[:, 4],
        every_third=base[1::3],
        permuted=base.view(2, 3, 4).permute(2, 0, 1),
        expanded=base[:3].expand(2, 3),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 5),
        parameter=nn.Parameter(torch.linspace(-1, 1, 5)),
        half=torch.linspace(-2, 2, 7).half(),
        bfloat=torch.linspace(-2, 2, 7).bfloat16(),
        double=torch.linspace(-2, 2, 7, dtype=torch.float64),
        long=torch.tensor([-(2**40), 0, 2**40]),
        int=torch.tensor([[-7, 7]], dtype=torch.int32),
        short=torch.tensor([-300, 300], dtype=torch.int16),
        char=torch.tensor([-128, 127], dtype=torch.int8),
        byte=torch.tensor([0, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
    )


def fixtures(folder):
    batch = batch_of([90, 6], 3)  # the second cloud has fewer points than the networks have neighbours
    networks = {
        "m2": TINY,
        "m1": dict(TINY, type="PT-v2m1", pe_multiplier=True, unpool_backend="map"),
    }
    models = {name: seeded(config, 40, batch) for name, config in networks.items()}
    for name, model in models.items():
        reference(model, batch, folder / f"{name}.safetensors")
    save(models["m2"], ["module", "backbone"], batch, folder / "zip_m2_module_backbone.pth", True, adam=False)
    save(models["m1"], ["backbone"], batch, folder / "plain_m1_backbone.pth", False, adam=False, one_cycle=True)
    save(models["m2"], [], batch, folder / "plain_m2_bare.pth", False, training=False)
    odd = odd_tensors()
    save_file({k: v.detach().clone().contiguous() for k, v in odd.items()}, folder / "odd.safetensors")
    torch.save({"state_dict": odd}, folder / "zip_odd.pth")
    torch.save({"state_dict": odd}, folder / "zip_odd_protocol4.pth", pickle_protocol=4)
    torch.save({"state_dict": odd}, folder / "plain_odd.pth", _use_new_zipfile_serialization=False)


def stratified(folder):
    """The states of the reference files in the layout of the Stratified repository's checkpoints: inside a distributed
    wrapper, with `item_layer` for `stem_layer` in one of them, and numpy scalars beside."""
    golden = Path(__file__).parent.parent / "data" / "golden" / "stratified"
    for name, spelling in [("net_stem_transformer", "item"), ("net_stem_kpconv", "stem")]:
        tensors = load_file(golden / f"{name}.safetensors")
        state = OrderedDict()
        for key, value in tensors.items():
            if key.startswith("param."):
                key = "module." + key.removeprefix("param.").replace("stem_layer", f"{spelling}_layer")
                state[key] = value.clone()
        head = [nn.Parameter(state[f"module.classifier.3.{n}"].clone()) for n in ("weight", "bias")]
        optimizer = torch.optim.AdamW(head, lr=0.006, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[60, 80], gamma=0.1)
        sum(p.square().sum() for p in head).backward()
        optimizer.step()
        scheduler.step()
        content = dict(
            epoch=7,
            state_dict=state,
            optimizer=optimizer.state_dict(),
            scheduler=scheduler.state_dict(),
            best_iou=np.float64(0.7123),
            is_best=np.bool_(True),
        )
        path = folder / f"{name}.pth"
        torch.save(content, path)
        print(f"{path.name}: {len(state)} entries, {path.stat().st_size} bytes")


def s3dis(folder):
    batch = batch_of([6000, 4000], 11)
    model = seeded(S3DIS, 12, batch)
    count = sum(p.numel() for p in model.parameters())
    entries = len(model.state_dict())
    assert (count, entries) == (3_908_641, 840), (count, entries)
    reference(model, batch, folder / "s3dis.safetensors")
    small = batch_of([600], 5)
    for zipped in (True, False):
        for levels in (["module", "backbone"], ["backbone"], ["module"], []):
            name = "_".join(["zip" if zipped else "plain", *levels]) + ".pth"
            save(model, levels, small, folder / name, zipped, training=levels != [])


if __name__ == "__main__":
    kinds = {"fixtures": fixtures, "stratified": stratified, "s3dis": s3dis}
    if len(sys.argv) != 3 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    kinds[sys.argv[1]](target)
