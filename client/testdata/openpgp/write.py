#!/usr/bin/env python3
"""Writes vectors.json: OpenPGP messages, sound and bad, made without any code of this project (deploy/python first:
target/python/bin/python client/testdata/openpgp/write.py). Each names the stage that must fail, and what the error says."""

import base64, bz2, hashlib, json, pathlib, struct, zlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

KEY = hashlib.sha256(b"the file key of these vectors").digest()
FINGERPRINT = hashlib.sha1(b"somebody").digest()
seed = 0


def random(n):
    """The same with each run, so that a change shows what it changes."""
    global seed
    out = b""
    while len(out) < n:
        seed += 1
        out += hashlib.sha256(b"random" + seed.to_bytes(8, "big")).digest()
    return out[:n]


def length(n):
    if n < 192:
        return bytes([n])
    if n < 8384:
        return bytes([192 + ((n - 192) >> 8), (n - 192) & 255])
    return b"\xff" + n.to_bytes(4, "big")


def packet(tag, body):
    return bytes([0xC0 | tag]) + length(len(body)) + body


def old(tag, body, kind=None):
    """The old form; kind 3: as long as what it stands in."""
    if kind == 3:
        return bytes([0x80 | tag << 2 | 3]) + body
    return bytes([0x80 | tag << 2 | 1]) + struct.pack(">H", len(body)) + body


def partial(tag, body, parts):
    """In parts of 2 to the power of these."""
    out = bytes([0xC0 | tag])
    for part in parts:
        out += bytes([224 + part]) + body[: 1 << part]
        body = body[1 << part :]
    return out + length(len(body)) + body


def mpi(number):
    number = number.lstrip(b"\0")
    bits = len(number) * 8 - (8 - number[0].bit_length() if number else 0)
    return struct.pack(">H", bits) + number


WRAPPED = b"\x5a" + random(255)


def pkesk3(keyid=FINGERPRINT[-8:], algorithm=1, wrapped=WRAPPED):
    return b"\x03" + keyid + bytes([algorithm]) + mpi(wrapped)


def pkesk6(key=b"\x04" + FINGERPRINT, algorithm=1, wrapped=WRAPPED):
    return b"\x06" + bytes([len(key)]) + key + bytes([algorithm]) + mpi(wrapped)


def cfb(plain, key=KEY):
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    return encryptor.update(plain) + encryptor.finalize()


def seipd1(message, key=KEY, head=b"\xd3\x14", mdc=None, repeated=True):
    prefix = random(16)
    prefix += prefix[14:] if repeated else b"\0\0"
    plain = prefix + message + head
    plain += hashlib.sha1(plain).digest() if mdc is None else mdc(plain)
    return b"\x01" + cfb(plain, key)


def seipd2(message, chunk=6, key=KEY, cipher=9, mode=3, last=None, count=None, tamper=lambda chunks: chunks):
    salt = random(32)
    info = bytes([0xD2, 2, cipher, mode, chunk])
    derived = HKDF(algorithm=hashes.SHA256(), length=36, salt=salt, info=info).derive(key)
    gcm, iv, size = AESGCM(derived[:32]), derived[32:], 1 << (chunk + 6)
    chunks, index = [], 0
    for at in range(0, len(message), size):
        chunks.append(gcm.encrypt(iv + struct.pack(">Q", index), message[at : at + size], info))
        index += 1
    total = len(message) if count is None else count
    end = gcm.encrypt(iv + struct.pack(">Q", index), b"", info + struct.pack(">Q", total))
    return b"\x02" + info[2:] + salt + b"".join(tamper(chunks)) + (end if last is None else last)


def literal(content=b"hello", name=b"", kind=b"b"):
    return kind + bytes([len(name)]) + name + bytes(4) + content


def compressed(algorithm, message):
    if algorithm == 1:
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        message = deflate.compress(message) + deflate.flush()
    elif algorithm == 2:
        message = zlib.compress(message)
    elif algorithm == 3:
        message = bz2.compress(message)
    return bytes([algorithm]) + message


def crc24(data):
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return (crc & 0xFFFFFF).to_bytes(3, "big")


def armour(data, label="MESSAGE", check=True, headers=b"", width=64):
    text = base64.b64encode(data)
    lines = b"\n".join(text[at : at + width] for at in range(0, len(text), width))
    check = b"\n=" + base64.b64encode(crc24(data)) if check else b""
    begin, end = (f"-----{what} PGP {label}-----\n".encode() for what in ("BEGIN", "END"))
    return begin + headers + b"\n" + lines + check + b"\n" + end


LIT = packet(11, literal())
TO1, TO2 = packet(1, pkesk3()), packet(1, pkesk6())
M1 = TO1 + packet(18, seipd1(LIT))
M2 = TO2 + packet(18, seipd2(LIT))
LONG = packet(11, literal(b"hello" * 3_000))

vectors = []


def vector(name, stage, says, envelope, key=KEY):
    vectors.append(
        {
            "name": name,
            "stage": stage,
            "says": says,
            "file_key": key.hex(),
            "envelope": base64.b64encode(envelope).decode(),
        }
    )


def v1(message, **more):
    return TO1 + packet(18, seipd1(message, **more))


def v2(message, **more):
    return TO2 + packet(18, seipd2(message, **more))


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# Sound.
vector("v1", "none", "", M1)
vector("v2", "none", "", M2)
vector("v1, heads of the old form", "none", "", old(1, pkesk3()) + packet(18, seipd1(old(11, literal()))))
vector("v1 in parts", "none", "", TO1 + partial(18, seipd1(LONG), [9, 12, 10, 9]))
vector("v2 in parts", "none", "", TO2 + partial(18, seipd2(LONG), [10, 9]))
vector("v1, literal in parts", "none", "", v1(partial(11, literal(b"x" * 5_000), [9, 10])))
vector("v1, literal to the end", "none", "", v1(old(11, literal(), 3)))
vector("v1, ZIP", "none", "", v1(packet(8, compressed(1, LIT))))
vector("v1, ZLIB", "none", "", v1(packet(8, compressed(2, LIT))))
vector("v1, compressed to the end, as GnuPG does it", "none", "", v1(old(8, compressed(1, LIT), 3)))
vector("v1, uncompressed in a compressed packet", "none", "", v1(packet(8, compressed(0, LIT))))
vector("v1, prefix not repeated: that is never looked at", "none", "", v1(LIT, repeated=False))
vector("v1, empty file", "none", "", v1(packet(11, literal(b""))))
vector("v2, empty file", "none", "", v2(packet(11, literal(b""))))
vector("v2, whole chunks", "none", "", v2(packet(11, literal(b"x" * (256 - 9))), chunk=0))
vector("v2, chunks of 64 bytes", "none", "", v2(LONG, chunk=0))
vector("v2, chunks of 4 MiB", "none", "", v2(LONG, chunk=16))
vector("v1 with a marker, padding and a private packet before", "none", "", packet(10, b"PGP") + packet(21, random(40)) + packet(60, b"?") + M1)
vector("v1, a name with folders is not used", "none", "", v1(packet(11, literal(name=b"../../evil"))))
vector("v1, text", "none", "", v1(packet(11, literal(kind=b"u"))))
vector("v1, signed", "none", "", v1(packet(4, b"\x03\0\x08\x01" + bytes(8) + b"\x01") + LIT + packet(2, random(100))))
vector("v1, several recipients", "none", "", packet(1, pkesk3(bytes(8), 18)) + packet(1, pkesk3(b"12345678", 18)) + M1)
vector("v2, a recipient of the old kind beside", "none", "", packet(1, pkesk3(b"12345678")) + M2)
vector("v2, a recipient of version 6", "none", "", packet(1, pkesk6(b"\x06" + random(32))) + packet(18, seipd2(LIT)))
vector("v1, a password beside", "none", "", packet(3, b"\x04\x09\x03\x08" + random(9)) + M1)
vector("v1, RSA to encrypt only", "none", "", packet(1, pkesk3(algorithm=2)) + packet(18, seipd1(LIT)))
vector("v1, wrapped key with zeros in front", "none", "", packet(1, pkesk3(wrapped=random(250))) + packet(18, seipd1(LIT)))
vector("v1 in armour", "none", "", armour(M1))
vector("v1 in armour with headers and CRLF", "none", "", armour(M1, headers=b"Version: 1\nComment: a: b\n").replace(b"\n", b"\r\n"))
vector("v1 in armour without a checksum", "none", "", armour(M1, check=False))
vector("v1 in armour with a wrong checksum, which is not looked at", "none", "", b"\n".join([*armour(M1).split(b"\n")[:-3], b"=AAAA", b"-----END PGP MESSAGE-----", b""]))
vector("v1 in armour of one line", "none", "", armour(M1, width=1 << 20))

# What it is.
vector("empty", "detection", "empty", b"")
vector("a signature", "detection", "no format", packet(2, random(100)))
vector("a file that is not encrypted", "detection", "no format", LIT)
vector("a certificate", "detection", "no format", packet(6, b"\x04" + bytes(4) + b"\x01" + mpi(random(256)) + mpi(b"\x01\0\x01")))
vector("a recipient of version 5", "detection", "no format", packet(1, b"\x05" + bytes(40)))

# Armour.
vector("armour without an end", "armour", "cut off", armour(M1)[:-27])
vector("armour of something else at the end", "armour", "base64", armour(M1).replace(b"END PGP MESSAGE", b"END PGP SIGNATURE"))
vector("armour with something behind it", "armour", "behind its end", armour(M1) + b"x")
vector("armour without an empty line", "armour", "no empty line", armour(M1).replace(b"-\n\n", b"-\n", 1))
vector("armour with a letter that is none", "armour", "base64", armour(M1)[:60] + b"?" + armour(M1)[61:])
vector("armour with a letter too few", "armour", "", armour(M1)[:60] + armour(M1)[61:])

# Packets.
vector("only a recipient", "packet", "cut off", TO1)
vector("a recipient, then a file that is not encrypted", "packet", "not encrypted", TO1 + LIT)
vector("a recipient, then a key", "packet", "a key", TO1 + packet(14, b"\x04") + M1)
vector("a recipient, then an unknown critical packet", "packet", "type 39", TO1 + packet(39, b"?") + packet(18, seipd1(LIT)))
vector("a recipient, then no packet", "packet", "is none", TO1 + b"\x00\x01\x02")
vector("a recipient longer than it says", "packet", "not as long", packet(1, pkesk3() + b"x") + packet(18, seipd1(LIT)))
vector("a recipient shorter than it says", "packet", "", packet(1, pkesk3()[:-1]) + packet(18, seipd1(LIT)))
vector("a recipient whose number has a zero in front", "packet", "not as long", packet(1, pkesk3(wrapped=b"\x01")[:-3] + b"\x08\x00" + bytes(1) + random(255)) + packet(18, seipd1(LIT)))
vector("a recipient without a wrapped key", "packet", "not as long", packet(1, pkesk3(wrapped=b"")) + packet(18, seipd1(LIT)))
vector("a recipient in parts", "packet", "in parts", TO1 + partial(1, pkesk3() + random(1000), [9]) + packet(18, seipd1(LIT)))
vector("a recipient of 20,000 bytes", "packet", "longer than", TO1 + packet(1, b"\x03" + random(20_000)) + packet(18, seipd1(LIT)))
vector("too many recipients", "packet", "more than 1000 recipients", TO1 + packet(1, pkesk3(bytes(8), 18, b"\x01")) * 1000 + packet(18, seipd1(LIT)))
vector("content without protection", "packet", "not protected", TO1 + packet(9, random(60)))
vector("content in GnuPG's own way", "packet", "type 20", TO1 + packet(20, b"\x01\x09\x02\x10" + random(80)))
vector("content of length 0", "packet", "cut off", TO1 + packet(18, b""))
vector("content with a version only", "packet", "cut off", TO1 + packet(18, b"\x01"))
vector("content cut off", "packet", "cut off", M1[:-1])
vector("content in parts, the last missing", "packet", "cut off", TO1 + partial(18, seipd1(LONG), [9, 12])[: 1 + 1 + 512])
vector("a first part of 256 bytes", "packet", "in parts", TO1 + partial(18, seipd1(LONG), [8]))
vector("two contents", "packet", "behind its end", M1 + packet(18, seipd1(LIT)))
vector("a newline behind the end", "packet", "behind its end", M1 + b"\n")

# Protection.
vector("protection of version 3", "protection", "version 3", TO1 + packet(18, b"\x03" + random(60)))
vector("protection of version 0", "protection", "version 0", TO1 + packet(18, b"\x00" + random(60)))
vector("v2 with AES-128", "protection", "cipher 7", v2(LIT, cipher=7))
vector("v2 with OCB", "protection", "OCB", v2(LIT, mode=2))
vector("v2 with EAX", "protection", "EAX", v2(LIT, mode=1))
vector("v2 with a mode that is not known", "protection", "mode", v2(LIT, mode=9))
vector("v2 with chunks of 8 MiB", "protection", "4 MiB", v2(LIT, chunk=17))
vector("v2 without a salt", "packet", "cut off", TO2 + packet(18, b"\x02\x09\x03\x06" + random(10)))

# Recipients.
vector("v1 to an elliptic key", "recipient", "by ECDH", packet(1, pkesk3(algorithm=18)) + packet(18, seipd1(LIT)))
vector("v1 to a hidden key", "recipient", "not named", packet(1, pkesk3(bytes(8))) + packet(18, seipd1(LIT)))
vector("v2 to a hidden key", "recipient", "not named", packet(1, pkesk6(b"")) + packet(18, seipd2(LIT)))
vector("v1 to a password", "recipient", "a password", packet(3, b"\x04\x09\x03\x08" + random(9)) + packet(18, seipd1(LIT)))
vector("v1 to nobody", "recipient", "nobody", packet(18, seipd1(LIT)))
vector("v1 by a packet of version 6", "recipient", "another version", TO2 + packet(18, seipd1(LIT)))
vector("v2 by a packet of version 3", "recipient", "another version", TO1 + packet(18, seipd2(LIT)))
vector("v2 to a key of version 5", "recipient", "version 5", packet(1, pkesk6(b"\x05" + random(32))) + packet(18, seipd2(LIT)))
vector("v1 by a wrapped key of 513 bytes", "recipient", "513 bytes", packet(1, pkesk3(wrapped=b"\x01" + random(512))) + packet(18, seipd1(LIT)))

# Authenticity.
WRONG = "not what was sealed"
vector("v1 with another key", "content", WRONG, M1, hashlib.sha256(b"another").digest())
vector("v2 with another key", "content", WRONG, M2, hashlib.sha256(b"another").digest())
vector("v1, first bit of the content", "content", WRONG, flipped(M1, len(TO1) + 3))
vector("v1, last bit of the hash", "content", WRONG, flipped(M1, len(M1) - 1))
vector("v1, bit of a long content", "content", WRONG, flipped(v1(LONG), 10_000))
vector("v1, another hash", "content", WRONG, v1(LIT, mdc=lambda plain: hashlib.sha1(plain + b"x").digest()))
vector("v1, hash without the head of its packet", "content", WRONG, v1(LIT, mdc=lambda plain: hashlib.sha1(plain[:-2]).digest()))
vector("v1, another packet around the hash", "content", WRONG, v1(LIT, head=b"\xd4\x14"))
vector("v1, no hash", "content", WRONG, v1(LIT, head=b"", mdc=lambda plain: b""))
vector("v1, shorter than prefix and hash", "content", "", TO1 + packet(18, b"\x01" + random(39)))
vector("v1, cut to whole blocks", "content", WRONG, TO1 + packet(18, seipd1(LONG)[: 1 + 16 * 100]))
vector("v1, of a file that claims to be compressed in a way that is not known, changed", "content", WRONG, flipped(v1(packet(8, b"\x63" + random(50))), len(TO1) + 40))
vector("v2, bit of the salt", "content", WRONG, flipped(M2, len(TO2) + 10))
vector("v2, bit of a chunk", "content", WRONG, flipped(M2, len(M2) - 40))
vector("v2, bit of the last tag", "content", WRONG, flipped(M2, len(M2) - 1))
vector("v2, other size of chunks", "content", WRONG, flipped(M2, len(TO2) + 1 + 1 + 3))
vector("v2, no last tag", "content", "", v2(LONG, last=b""))
vector("v2, last tag of another length", "content", WRONG, v2(LONG, count=4))
vector("v2, first chunk missing", "content", WRONG, v2(LONG, chunk=0, tamper=lambda chunks: chunks[1:]))
vector("v2, last chunk missing", "content", WRONG, v2(LONG, chunk=0, tamper=lambda chunks: chunks[:-1]))
vector("v2, chunks exchanged", "content", WRONG, v2(LONG, chunk=0, tamper=lambda chunks: [chunks[1], chunks[0], *chunks[2:]]))
vector("v2, a chunk twice", "content", WRONG, v2(LONG, chunk=0, tamper=lambda chunks: [chunks[0], *chunks]))
vector("v2, less than a tag", "content", WRONG, TO2 + packet(18, seipd2(b"")[:-1]))

# What is inside.
for version, make in (("v1", v1), ("v2", v2)):
    vector(f"{version}, nothing inside", "message", "no file", make(b""))
    vector(f"{version}, a signature only", "message", "no file", make(packet(2, random(50))))
    vector(f"{version}, two files", "message", "more than one file", make(LIT + LIT))
    vector(f"{version}, a file cut off", "message", "cut off", make(LIT[:-1]))
    vector(f"{version}, bzip2", "message", "bzip2", make(packet(8, compressed(3, LIT))))
    vector(f"{version}, another compression", "message", "not known here (9)", make(packet(8, b"\x09x")))
    vector(f"{version}, compressed content cut off", "message", "", make(packet(8, compressed(2, LONG)[:-5])))
    vector(f"{version}, padding behind the compressed content, as Sequoia does it", "none", "", make(packet(8, compressed(1, LIT) + bytes(5_000))))
    vector(f"{version}, four times compressed", "message", "again and again", make(packet(8, compressed(1, packet(8, compressed(1, packet(8, compressed(1, packet(8, compressed(1, LIT))))))))))
    vector(f"{version}, encrypted again", "message", "type 1 where", make(M1))
    vector(f"{version}, a key", "message", "a key", make(packet(6, b"\x04")))
    vector(f"{version}, an unknown critical packet", "message", "type 30", make(packet(30, b"?") + LIT))
    vector(f"{version}, no packet", "message", "is none", make(b"hello"))
    vector(f"{version}, a packet of 100,000 bytes beside the file", "message", "more than 65536", make(packet(60, bytes(100_000)) + LIT))
    vector(f"{version}, 1,001 packets", "message", "packets", make(packet(10, b"PGP") * 1_001))
    vector(f"{version}, a bomb", "message", "more than", make(packet(8, compressed(1, packet(8, compressed(1, packet(11, literal(bytes(100_000_000)))))))))

text = ",\n".join(json.dumps(one, indent=0) for one in vectors)
pathlib.Path(__file__).with_name("vectors.json").write_text(f"[\n{text}\n]\n")
print(len(vectors), "vectors")
