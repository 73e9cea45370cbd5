#!/usr/bin/env python3
"""Writes locked.json: OpenPGP secret-key packets under a passphrase, sound and bad, made without any code of this project (deploy/python
first: target/python/bin/python client/testdata/openpgp/locked.py). With a file name, also a whole key: the example of RFC 9580, locked
with little memory."""

import base64, hashlib, json, pathlib, sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESOCB3
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives import hmac, serialization

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

HERE = pathlib.Path(__file__).parent
PASSPHRASE = "correct horse battery staple"
CREATED = (1_700_000_000).to_bytes(4, "big")
LENGTHS = {7: 16, 8: 24, 9: 32}
seed = 0


def random(n):
    """The same with each run, so that a change shows what it changes."""
    global seed
    out = b""
    while len(out) < n:
        seed += 1
        out += hashlib.sha256(b"locked" + seed.to_bytes(8, "big")).digest()
    return out[:n]


def mpi(number):
    number = number.lstrip(b"\0")
    return (len(number) * 8 - 8 + number[0].bit_length()).to_bytes(2, "big") + number


def hkdf(key, info):
    """Without a salt."""
    extract = hmac.HMAC(bytes(32), hashes.SHA256())
    extract.update(key)
    return HKDFExpand(hashes.SHA256(), len(key), info).derive(extract.finalize())


class Iterated:
    kind = "iterated"

    def __init__(self, hash=8, coded=0x60):
        self.salt, self.hash, self.coded = random(8), hash, coded

    def spec(self):
        return bytes([3, self.hash]) + self.salt + bytes([self.coded])

    def key(self, passphrase, n):
        count = (16 + (self.coded & 15)) << ((self.coded >> 4) + 6)
        unit = self.salt + passphrase.encode()
        data = (unit * (count // len(unit) + 1))[: max(count, len(unit))]
        name = {2: "sha1", 8: "sha256", 10: "sha512"}[self.hash]
        out = b""
        while len(out) < n:
            out += hashlib.new(name, bytes(len(out) // hashlib.new(name).digest_size) + data).digest()
        return out[:n]


class Argon2:
    kind = "Argon2"

    def __init__(self, passes=1, lanes=1, exponent=4):
        self.salt, self.passes, self.lanes, self.exponent = random(16), passes, lanes, exponent

    def spec(self):
        return b"\4" + self.salt + bytes([self.passes, self.lanes, self.exponent])

    def key(self, passphrase, n):
        argon2 = Argon2id(salt=self.salt, length=n, iterations=self.passes, lanes=self.lanes, memory_cost=1 << self.exponent)
        return argon2.derive(passphrase.encode())


def counted(fields):
    return bytes([len(fields)]) + fields


def aead(tag, public, numbers, s2k, cipher=9, mode=2, passphrase=PASSPHRASE, about=None, spec=None):
    """`about`: the public part that is authenticated, if that is another."""
    v6, key = public[0] == 6, s2k.key(passphrase, LENGTHS.get(cipher, 32))
    info = bytes([0xC0 | tag, public[0], cipher, mode])
    nonce = random({1: 16, 2: 15, 3: 12}.get(mode, 12))
    seal = {2: AESOCB3, 3: AESGCM}.get(mode, AESGCM)(hkdf(key, info))
    sealed = seal.encrypt(nonce if mode != 1 else nonce[:12], numbers, bytes([0xC0 | tag]) + (about or public))
    spec = s2k.spec() if spec is None else spec
    fields = bytes([cipher, mode]) + (counted(spec) if v6 else spec) + nonce
    return public + b"\xfd" + (counted(fields) if v6 else fields) + sealed


def cfb(public, numbers, s2k, cipher=9, usage=254, passphrase=PASSPHRASE):
    v6, iv = public[0] == 6, random(16)
    check = hashlib.sha1(numbers).digest() if usage == 254 else (sum(numbers) & 0xFFFF).to_bytes(2, "big")
    encryptor = Cipher(algorithms.AES(s2k.key(passphrase, LENGTHS[cipher])), CFB(iv)).encryptor()
    fields = bytes([cipher]) + (counted(s2k.spec()) if v6 else s2k.spec()) + iv
    return public + bytes([usage]) + (counted(fields) if v6 else fields) + encryptor.update(numbers + check)


RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
SEED = hashlib.sha256(b"the key of these vectors").digest()
POINT = ed25519.Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes(*RAW)
SCALAR = int.from_bytes(SEED, "big") >> 1
P256 = ec.derive_private_key(SCALAR, ec.SECP256R1()).public_key()
P256 = P256.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
OID = bytes.fromhex("082a8648ce3d030107")
KEYS = {
    "v6 ed25519": (b"\6" + CREATED + b"\x1b" + len(POINT).to_bytes(4, "big") + POINT, SEED),
    "v4 ed25519": (b"\4" + CREATED + b"\x1b" + POINT, SEED),
    "v4 p256": (b"\4" + CREATED + b"\x13" + OID + mpi(P256), mpi(SCALAR.to_bytes(32, "big"))),
}
vectors = []


def good(name, tag, key, packet):
    vectors.append(dict(name=name, tag=tag, packet=packet.hex(), passphrase=PASSPHRASE, numbers=KEYS[key][1].hex()))


def bad(name, why, packet, tag=5, passphrase=PASSPHRASE):
    vectors.append(dict(name=name, tag=tag, packet=packet.hex(), passphrase=passphrase, why=why))


for key, (public, numbers) in KEYS.items():
    for cipher, bits in ((7, 128), (8, 192), (9, 256)):
        for mode, mode_name in ((2, "OCB"), (3, "GCM")):
            for s2k in (Iterated(), Argon2(), Argon2(2, 4, 6)):
                for tag in (5, 7):
                    name = f"{key}, aead {mode_name} AES-{bits}, {s2k.kind}, packet {tag}"
                    good(name, tag, key, aead(tag, public, numbers, s2k, cipher, mode))
        for hash in (2, 8, 10):
            good(f"{key}, CFB AES-{bits}, hash {hash}", 5, key, cfb(public, numbers, Iterated(hash), cipher))
public, numbers = KEYS["v4 p256"]
good("v4 p256, CFB with a checksum", 5, "v4 p256", cfb(public, numbers, Iterated(), usage=255))

for key, (public, numbers) in KEYS.items():
    v6 = public[0] == 6
    wrong = dict(passphrase="wrong")
    bad(f"{key}: another passphrase, OCB", "the passphrase is wrong", aead(5, public, numbers, Argon2()), **wrong)
    bad(f"{key}: another passphrase, GCM", "the passphrase is wrong", aead(5, public, numbers, Argon2(), mode=3), **wrong)
    bad(f"{key}: another passphrase, CFB", "the passphrase is wrong", cfb(public, numbers, Iterated()), **wrong)
    bad(f"{key}: made as a subkey", "the passphrase is wrong", aead(7, public, numbers, Argon2()))
    other = public[:1] + (1_700_000_001).to_bytes(4, "big") + public[5:]
    bad(f"{key}: another public part", "the passphrase is wrong", aead(5, public, numbers, Argon2(), about=other))
    bad(f"{key}: Argon2 with CFB", "Argon2 goes with authenticated", cfb(public, numbers, Argon2()))
    bad(f"{key}: EAX", "EAX", aead(5, public, numbers, Argon2(), mode=1))
    bad(f"{key}: mode 9", "AEAD mode 9", aead(5, public, numbers, Argon2(), mode=9))
    bad(f"{key}: Camellia", "cipher 13", aead(5, public, numbers, Argon2(), cipher=13))
    bad(f"{key}: S2K 0", "S2K 0", aead(5, public, numbers, Argon2(), spec=b"\0\10"))
    bad(f"{key}: usage 9", "usage 9", public + b"\x09" + bytes(60))
    for passes, lanes, exponent, why in (
        (1, 4, 22, "4096 MiB of memory (Argon2)"), (1, 1, 11, "2 MiB of memory (Argon2), and more than 1 MiB"),
        (0, 1, 4, "no sense"), (1, 0, 4, "no sense"), (1, 4, 4, "no sense"), (1, 1, 40, "no sense"),
    ):
        spec = b"\4" + random(16) + bytes([passes, lanes, exponent])
        bad(f"{key}: Argon2 {passes}, {lanes}, {exponent}", why, aead(5, public, numbers, Argon2(), spec=spec))
    bad(f"{key}: cut off", "cut off", public + b"\xfd" + (b"\x30" if v6 else b"") + b"\x09")
    bad(f"{key}: nothing sealed", "the passphrase is wrong", aead(5, public, numbers, Argon2())[: -len(numbers) - 16])
public, numbers = KEYS["v6 ed25519"]
bad("v6: S2K usage 255", "usage 255, version 6", cfb(public, numbers, Iterated(), usage=255))
bad("v6: more in the S2K than there should be", "damaged", aead(5, public, numbers, a := Argon2(), spec=a.spec() + b"\0"))
packet = bytearray(aead(5, public, numbers, Argon2()))
packet[len(public) + 1] += 1
bad("v6: more parameters than there should be", "damaged", bytes(packet))

(HERE / "locked.json").write_text("[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]\n")
print(len(vectors), "vectors")

if len(sys.argv) > 1:
    lines = (HERE / "rfc9580/secret.asc").read_text().split("\n\n")[1].splitlines()
    key = base64.b64decode("".join(line for line in lines if line[:1] not in "=-"))
    body, rest = key[2 : 2 + key[1]], key[2 + key[1] :]
    public, numbers = body[:42], body[43:]
    locked = aead(5, public, numbers, Argon2(1, 1, 5))
    pathlib.Path(sys.argv[1]).write_bytes(bytes([0xC5, len(locked)]) + locked + rest)
