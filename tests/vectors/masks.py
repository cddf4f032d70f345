"""Makes keystream.txt, lanes.txt, sharing.txt and slots.txt, without any of our own code.

Needs Python 3.11 and the package `cryptography` (made with 50.0.2, OpenSSL inside). Run it in this
folder: `python3 masks.py`. It writes the same bytes every time. The layouts that it follows are
those of the rules M-02, M-03, M-05 and M-09 to M-20 of aggregation/PROTOCOL-MASKS.md, written again.
"""
import hashlib
import struct

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ORDER = 2**252 + 27742317777372353535851937790883648493
RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def sha256(data):
    return hashlib.sha256(data).digest()


def transcript(label, *fields):
    """Each field behind its length in 8 bytes; numbers as 4 ('u32') or 8 ('u64') bytes."""
    out = b""
    for field in (label.encode(), *fields):
        if isinstance(field, tuple):
            field = struct.pack({"u32": "<I", "u64": "<Q"}[field[0]], field[1])
        elif isinstance(field, str):
            field = field.encode()
        out += struct.pack("<Q", len(field)) + field
    return out


def hkdf(key, info, length=32):
    return HKDF(hashes.SHA256(), length, None, info).derive(key)


def scalar(wide):
    return int.from_bytes(wide, "little") % ORDER


def encode(number):
    return number.to_bytes(32, "little")


# keystream.txt -----------------------------------------------------------------------------------
def keystream(key, tile, length):
    """GCM encrypts with AES-CTR from the counter block nonce || 2 (SP 800-38D, 7.1 and 6.5)."""
    counter = bytes(4) + struct.pack(">Q", tile) + struct.pack(">I", 2)
    cipher = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return cipher.update(bytes(length))


def make_keystream():
    lines = [
        "# Tiles of a mask: AES-256-CTR of OpenSSL, from the counter block that GCM starts with.",
        "# Made by masks.py in this folder. key, tile, bytes 0 to 31, bytes 16352 to 16383,",
        "# SHA-256 of the whole tile of 16384 bytes.",
    ]
    keys = [bytes(32), bytes(range(32)), b"\xff" * 32, sha256(b"mask")]
    for key in keys:
        for tile in [0, 1, 255, 65536, 2**32 - 1, 2**32]:
            whole = keystream(key, tile, 16384)
            row = [key, str(tile), whole[:32], whole[-32:], sha256(whole)]
            lines.append(" ".join(x if isinstance(x, str) else x.hex() for x in row))
    return lines


# lanes.txt ---------------------------------------------------------------------------------------
def lanes_of(key, first, bits, lanes):
    """The numbers of M-03, from a tile on."""
    numbers, tile = [], first
    while len(numbers) < lanes:
        stream = keystream(key, tile, 4096 * bits // 8)
        if bits == 24:
            for block in (stream[at:at + 48] for at in range(0, len(stream), 48)):
                low, high = struct.unpack("<16H", block[:32]), block[32:]
                numbers += [h << 16 | l for l, h in zip(low, high)]
        else:
            numbers += struct.unpack({16: "<4096H", 32: "<4096I"}[bits], stream)
        tile += 1
    return numbers[:lanes]


def make_lanes():
    lines = [
        "# What a mask is in 4133 lanes, from a tile on: AES-256-CTR of OpenSSL, cut as M-03 says.",
        "# Made by masks.py in this folder. key, first tile, b, the first 20 lanes as 4 bytes each,",
        "# little-endian, and SHA-256 of all of them so written.",
    ]
    for key in [bytes(range(32)), sha256(b"lanes")]:
        for first in [0, 2**32 - 1]:
            for bits in [16, 24, 32]:
                numbers = lanes_of(key, first, bits, 4133)
                written = struct.pack("<4133I", *numbers)
                lines.append(f"{key.hex()} {first} {bits} {written[:80].hex()} {sha256(written).hex()}")
    return lines


# sharing.txt -------------------------------------------------------------------------------------
def split(secret, threshold, holders, seed):
    polynomial = [secret]
    for degree in range(1, threshold):
        info = transcript("consilium/coefficient/1", ("u32", degree))
        polynomial.append(scalar(hkdf(seed, info, 64)))
    return {x: sum(c * pow(x, i, ORDER) for i, c in enumerate(polynomial)) % ORDER for x in holders}


def make_sharing():
    lines = [
        "# Shamir shares modulo the order of Curve25519's group, in Python's own integers.",
        "# Made by masks.py in this folder. threshold, 64 bytes that stand for the secret, seed of",
        "# the coefficients, the secret's encoding, then holder:share.",
    ]
    cases = [
        (1, [1]),
        (2, [1, 2, 3]),
        (3, [1, 2, 3]),
        (7, list(range(1, 11))),
        (5, [2, 3, 5, 700, 65535]),
        (61, list(range(1, 101))),
    ]
    for number, (threshold, holders) in enumerate(cases):
        wide = hashlib.sha512(b"secret %d" % number).digest()
        seed = sha256(b"seed %d" % number)
        shares = split(scalar(wide), threshold, holders, seed)
        row = [str(threshold), wide.hex(), seed.hex(), encode(scalar(wide)).hex()]
        lines.append(" ".join(row + [f"{x}:{encode(y).hex()}" for x, y in shares.items()]))
    return lines


# slots.txt ---------------------------------------------------------------------------------------
def agreement(seed):
    return X25519PrivateKey.from_private_bytes(seed)


def scope_of(study, charter, owner, batch, first):
    return [study, charter, owner, batch, ("u64", first)]


def seal(key, number, secret, place):
    return AESGCM(key).encrypt(bytes(4) + struct.pack(">Q", number), secret, place)


def make_slots():
    """Three hospitals a, b, c; the batch that a makes for two slots from 7 on, with T = 3."""
    lines = [
        "# One hospital's prekey batch and the masks of one context, step by step. Hospitals a, b, c",
        "# (holders 1, 2, 3), all three shares needed, chains from slot 5 on, batch of slots 7 and 8.",
        "# Made by masks.py in this folder. A name, then the value.",
    ]
    study, charter = sha256(b"study"), sha256(b"charter")
    names = ["a", "b", "c"]
    secrets = {name: agreement(sha256(b"agreement " + name.encode())) for name in names}
    public = {name: secret.public_key() for name, secret in secrets.items()}
    raw = {name: key.public_bytes(*RAW) for name, key in public.items()}

    def root(one, two):
        one, two = sorted([one, two])
        info = transcript("consilium/pair/1", charter, one, two, raw[one], raw[two])
        return hkdf(secrets[one].exchange(public[two]), info)

    def chain_seed(of_root, slot):
        chain = hkdf(of_root, transcript("consilium/chain/1"))
        for _ in range(5, slot):
            chain = hkdf(chain, transcript("consilium/chain-next/1"))
        return hkdf(chain, transcript("consilium/chain-seed/1"))

    out = {}
    for name in names:
        out[f"agreement-seed-{name}"] = sha256(b"agreement " + name.encode())
        out[f"agreement-key-{name}"] = raw[name]
    out["seed-ab-7"] = chain_seed(root("a", "b"), 7)
    out["seed-ac-8"] = chain_seed(root("a", "c"), 8)

    batch, seed, first = sha256(b"batch")[:16], sha256(b"batch seed"), 7
    scope = scope_of(study, charter, "a", batch, first)
    body = b""
    for slot in [7, 8]:
        drawn, shared = {}, {}
        for kind in ["self", "recovery"]:
            wide = hkdf(seed, transcript("consilium/slot-secret/1", *scope, ("u64", slot), kind), 64)
            info = transcript("consilium/slot-coefficients/1", *scope, ("u64", slot), kind)
            drawn[kind] = scalar(wide)
            shared[kind] = split(drawn[kind], 3, [2, 3, 1], hkdf(seed, info))
            info = transcript("consilium/slot-commitment/1", *scope, ("u64", slot), kind)
            body += hkdf(encode(drawn[kind]), info)
        for name, holder in [("b", 2), ("c", 3)]:
            share_root = hkdf(root("a", name), transcript("consilium/share-root/1"))
            key = hkdf(share_root, transcript("consilium/share-key/1", *scope, name))
            place = transcript("consilium/share/1", *scope, ("u64", slot), name, ("u32", holder))
            both = b"".join(encode(shared[kind][holder]) for kind in ["self", "recovery"])
            body += seal(key, slot, both, place)
        info = transcript("consilium/escrow-key/1", *scope, ("u64", slot))
        place = transcript("consilium/escrow/1", *scope, ("u64", slot), ("u64", 2))
        seeds = b"".join(chain_seed(root("a", name), slot) for name in ["b", "c"])
        body += seal(hkdf(encode(drawn["recovery"]), info), 0, seeds, place)
        out[f"self-{slot}"] = encode(drawn["self"])
        out[f"recovery-{slot}"] = encode(drawn["recovery"])
        out[f"own-share-{slot}"] = encode(shared["self"][1])
    head = b"prekeys1" + study + charter + batch + struct.pack("<QIH", first, 2, 2) + b"\x01a"
    out["batch-id"], out["batch-seed"], out["batch"] = batch, seed, head + body

    identities = {name: Ed25519PrivateKey.from_private_bytes(sha256(b"identity " + name.encode())) for name in names}
    keys = {name: identity.public_key().public_bytes(*RAW) for name, identity in identities.items()}
    out["identity-seed-a"] = sha256(b"identity a")
    out["batch-signature"] = identities["a"].sign(
        sha256(transcript("consilium/prekey-batch/1", sha256(head + body))))

    members = [("u64", len(names))]
    for name in names:
        members += [name, sha256(transcript("consilium/identity/1", keys[name]))]
        out[f"identity-key-{name}"] = keys[name]
    ctx = sha256(transcript(
        "consilium/secagg/1", study, charter, ("u32", 2), ("u64", 7), ("u32", 9), sha256(b"model"),
        sha256(b"plan"), sha256(transcript("consilium/masking-roster/1", *members)),
        sha256(b"graph"), sha256(b"checkpoint")))
    out["context"] = ctx
    pair_key = hkdf(out["seed-ab-7"], transcript("consilium/pair-mask/1", ctx))
    self_key = hkdf(out["self-7"], transcript("consilium/self-mask/1", ctx))
    out["pair-mask-ab-7"] = keystream(pair_key, 3, 64)
    out["self-mask-a-7"] = keystream(self_key, 3, 64)
    return lines + [f"{name} {value.hex()}" for name, value in out.items()]


if __name__ == "__main__":
    for name, make in [
        ("keystream", make_keystream),
        ("lanes", make_lanes),
        ("sharing", make_sharing),
        ("slots", make_slots),
    ]:
        with open(f"{name}.txt", "w", encoding="ascii") as out:
            out.write("\n".join(make()) + "\n")
