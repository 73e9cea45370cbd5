"""A second writer of `sealed` envelopes, from docs/formats/sealed.md and with python-cryptography >= 50 only.

    python write.py CERTIFICATE.pem ENVELOPE PATH...     seal files
    python write.py --vectors                            print vectors.json

The vectors are damaged on purpose; each says which stage of section 6 refuses it. Their file keys are in them.
"""
import base64, hashlib, io, json, os, struct, sys, warnings, zipfile, zlib

from cryptography import x509
from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


# ── DER ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def tlv(tag, *parts):
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def oid(text):
    arcs = [int(arc) for arc in text.split(".")]
    out = bytes([arcs[0] * 40 + arcs[1]])
    for arc in arcs[2:]:
        groups = [arc & 127]
        while arc := arc >> 7:
            groups.append(128 | arc & 127)
        out += bytes(reversed(groups))
    return tlv(6, out)


def sequence(*parts):
    return tlv(0x30, *parts)


ID_DATA = oid("1.2.840.113549.1.7.1")
SHA256 = sequence(oid("2.16.840.1.101.3.4.2.1"), tlv(5))
OAEP = sequence(
    oid("1.2.840.113549.1.1.7"),
    sequence(tlv(0xA0, SHA256), tlv(0xA1, sequence(oid("1.2.840.113549.1.1.8"), SHA256))),
)


def attributes(description):
    content_type = sequence(oid("1.2.840.113549.1.9.3"), tlv(0x31, ID_DATA))
    hints = sequence(tlv(0x0C, description.encode()), ID_DATA)
    return tlv(0x31, content_type, sequence(oid("1.2.840.113549.1.9.16.2.4"), tlv(0x31, hints)))


def cipher_key(recipients, file_key, secret, attrs=attributes("sealed/1 input key"), oaep=OAEP):
    """`recipients`: pairs of key identifier and wrapped file key."""
    infos = [sequence(tlv(2, b"\2"), tlv(0x80, key_id), oaep, tlv(4, wrapped)) for key_id, wrapped in recipients]
    nonce = os.urandom(12)
    sealed = AESGCM(file_key).encrypt(nonce, secret, attrs or None)
    gcm = sequence(oid("2.16.840.1.101.3.4.1.46"), sequence(tlv(4, nonce), tlv(2, b"\x10")))
    data = sequence(
        tlv(2, b"\0"),
        tlv(0x31, *sorted(infos)),
        sequence(ID_DATA, gcm, tlv(0x80, sealed[:-16])),
        b"\xa1" + attrs[1:] if attrs else b"",
        tlv(4, sealed[-16:]),
    )
    return sequence(oid("1.2.840.113549.1.9.16.1.23"), tlv(0xA0, data))


# ── The outer ZIP ────────────────────────────────────────────────────────────────────────────────────────────────────
def container(key, data, crc=None):
    crc = zlib.crc32(data) if crc is None else crc
    wide = max(len(data), len(key)) >= 0xFFFFFFFF
    assert not wide, "this writer is for small envelopes"

    def common(version, flags, crc, size, name, extra):
        return struct.pack("<5H3I2H", version, flags, 0, 0, 0x21, crc, size, size, len(name), len(extra))

    def central(version, flags, crc, size, name, at):
        fields = common(version, flags, crc, size, name, b"") + struct.pack("<3H2I", 0, 0, 0, 0o100644 << 16, at)
        return b"PK\1\2" + struct.pack("<H", 3 << 8 | 63) + fields + name

    zip64 = struct.pack("<2H2Q", 1, 16, 0, 0)
    first, second = b"CIPHER.KEY", b"SEALED.DATA"
    out = b"PK\3\4" + common(20, 0x800, zlib.crc32(key), len(key), first, b"") + first + key
    second_at = len(out)
    out += b"PK\3\4" + common(45, 0x808, 0, 0xFFFFFFFF, second, zip64) + second + zip64 + data
    out += b"PK\7\x08" + struct.pack("<I2Q", crc, len(data), len(data))
    directory = central(20, 0x800, zlib.crc32(key), len(key), first, 0)
    directory += central(20, 0x808, crc, len(data), second, second_at)
    return out + directory + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 2, 2, len(directory), len(out), 0)


def context(key):
    return b"custodian sealed/1\0" + hashlib.sha256(key).digest()


def encrypt(input_key, key, inside):
    encryptor = Cobblestone256Encryptor(input_key, context(key))
    return encryptor.update(inside) + encryptor.finalize()


# ── Sealing ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def inner(files, compression=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files:
            how = zipfile.ZIP_STORED if name.endswith("/") else compression
            archive.writestr(zipfile.ZipInfo(name, (2026, 11, 21, 12, 0, 0)), content, how)
    return out.getvalue()


def seal(certificate, files):
    certificate = x509.load_pem_x509_certificate(certificate)
    key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    file_key, input_key = os.urandom(32), os.urandom(32)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    key = cipher_key([(key_id, certificate.public_key().encrypt(file_key, oaep))], file_key, input_key)
    return container(key, encrypt(input_key, key, inner(files)))


# ── Vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def vectors():
    file_key, input_key = os.urandom(32), os.urandom(32)
    recipient = (os.urandom(20), os.urandom(256))
    key = cipher_key([recipient], file_key, input_key)
    inside = inner([("letter.txt", b"a short letter"), ("folder/", b""), ("folder/notes", b"notes " * 40)])
    data = encrypt(input_key, key, inside)
    good = container(key, data)
    out = []

    def add(name, envelope, stage, says, opens_with=file_key):
        out.append(
            {
                "name": name,
                "stage": stage,
                "says": says,
                "file_key": opens_with.hex(),
                "envelope": base64.b64encode(envelope).decode(),
            }
        )

    def flipped(bytes_, at, bit=1):
        return bytes_[:at] + bytes([bytes_[at] ^ bit]) + bytes_[at + 1 :]

    add("sound", good, "none", "")
    add("sound, another salt", container(key, encrypt(input_key, key, inside)), "none", "")
    stored = inner([("a", b"stored")], zipfile.ZIP_STORED)
    add("sound, stored", container(key, encrypt(input_key, key, stored)), "none", "")
    add("sound, two recipients", container(
        two := cipher_key([recipient, (os.urandom(20), os.urandom(384))], file_key, input_key),
        encrypt(input_key, two, inside)), "none", "")

    # 1: the outer ZIP
    outer = "outer ZIP"
    second = 40 + len(key)
    data_at = second + 30 + 11 + 20
    end = data_at + len(data)
    for name, at in [
        ("version needed of CIPHER.KEY", 4), ("flags of CIPHER.KEY", 6), ("time of CIPHER.KEY", 10),
        ("checksum of CIPHER.KEY", 14), ("version needed of SEALED.DATA", second + 4),
        ("date of SEALED.DATA", second + 12), ("checksum before SEALED.DATA", second + 14),
        ("Zip64 field of SEALED.DATA", second + 45), ("descriptor's signature", end), ("descriptor's checksum", end + 4),
        ("descriptor's size", end + 8), ("directory: made by", end + 24 + 4), ("directory: mode", end + 24 + 40),
        ("directory: checksum", end + 24 + 56 + 16), ("directory: offset", end + 24 + 56 + 42),
        ("end: disk", len(good) - 18), ("end: entries", len(good) - 12), ("end: offset", len(good) - 6),
        ("end: comment length", len(good) - 2),
    ]:
        add(f"one bit of the {name}" if ":" not in name else f"one bit in {name}", flipped(good, at), "container", outer)
    add("one bit of the size of CIPHER.KEY", flipped(good, 18), "detection", "")
    add("one byte too many at the end", good + b"\0", "container", outer)
    add("one byte too many in front", b"\0" + good, "detection", "")
    add("a comment", good[:-2] + b"\1\0c", "container", outer)
    add("cut off by one byte", good[:-1], "container", outer)
    add("cut off in the middle of SEALED.DATA", good[: data_at + 100], "container", outer)
    add("cut off after CIPHER.KEY", good[:second], "detection", "")
    add("nothing in SEALED.DATA", container(key, b""), "container", outer)
    add("SEALED.DATA shorter than any message", container(key, data[:71]), "container", outer)
    directory_at = struct.unpack_from("<I", good, len(good) - 6)[0]
    add("bytes between SEALED.DATA and the directory",
        good[:directory_at] + b"PK\3\4" + good[directory_at:], "container", outer)

    # 2: CIPHER.KEY
    def with_key(name, other, stage, says, opens_with=file_key):
        add(name, container(other, encrypt(input_key, other, inside)), stage, says, opens_with)

    with_key("CIPHER.KEY is no DER", b"password", "cipher key", "no CMS message")
    with_key("CIPHER.KEY is empty", b"", "cipher key", "no CMS message")
    with_key("bytes behind CIPHER.KEY's message", key + b"\0", "cipher key", "no CMS message")
    with_key("CIPHER.KEY without attributes, as in MTD", cipher_key([recipient], file_key, input_key, b""),
             "cipher key", "attributes")
    for description in ["sealed/2 input key", "sealed/1 input key ", ""]:
        with_key(f"CIPHER.KEY's hint says “{description}”",
                 cipher_key([recipient], file_key, input_key, attributes(description)), "cipher key", "attributes")
    one = tlv(0x31, sequence(oid("1.2.840.113549.1.9.3"), tlv(0x31, ID_DATA)))
    with_key("CIPHER.KEY without content hints", cipher_key([recipient], file_key, input_key, one),
             "cipher key", "attributes")
    pkcs1 = sequence(oid("1.2.840.113549.1.1.1"), tlv(5))
    with_key("a recipient with PKCS #1 v1.5 only",
             cipher_key([recipient], file_key, input_key, oaep=pkcs1), "cipher key", "none of its recipients")
    with_key("a key identifier of 19 bytes", cipher_key([(os.urandom(19), os.urandom(256))], file_key, input_key),
             "cipher key", "none of its recipients")
    data_as_content = key.replace(oid("1.2.840.113549.1.9.16.1.23"), oid("1.2.840.113549.1.9.16.1.24"))
    with_key("another content type", data_as_content, "cipher key", "AuthEnvelopedData")
    cbc = key.replace(oid("2.16.840.1.101.3.4.1.46"), oid("2.16.840.1.101.3.4.1.42"))
    with_key("AES-256-CBC instead of GCM", cbc, "cipher key", "AES-256-GCM")

    # 3: the secret
    wrong = "does not open with the file key"
    add("another file key", good, "secret", wrong, os.urandom(32))
    with_key("the tag of CIPHER.KEY", flipped(key, len(key) - 1), "secret", wrong)
    sealed_at = key.rfind(b"\x80\x20") + 2
    with_key("the ciphertext of CIPHER.KEY", flipped(key, sealed_at), "secret", wrong)
    for length in [0, 31, 33, 48]:
        with_key(f"an input key of {length} bytes", cipher_key([recipient], file_key, os.urandom(length)),
                 "secret", "no input key of 32 bytes")

    # 4: length and commitment
    cut, bound = "SEALED.DATA is cut off", "not sealed with this CIPHER.KEY"
    add("salt", container(key, flipped(data, 0)), "commitment", bound)
    add("commitment", container(key, flipped(data, 24)), "commitment", bound)
    add("another input key", container(key, encrypt(os.urandom(32), key, inside)), "commitment", bound)
    other = cipher_key([recipient], file_key, input_key)
    add("CIPHER.KEY of another envelope with the same keys", container(other, data), "commitment", bound)
    plain = Cobblestone256Encryptor(input_key, b"")
    add("an empty context", container(key, plain.update(inside) + plain.finalize()), "commitment", bound)
    long = os.urandom(2 * 16384 + 100)
    long_data = encrypt(input_key, key, long)
    chunks = [long_data[at : at + 16400] for at in range(56, len(long_data), 16400)]
    add("the last chunk is missing", container(key, long_data[: 56 + 2 * 16400]), "length", cut)
    add("the last chunk is shorter than its tag", container(key, long_data[: 56 + 2 * 16400 + 15]), "length", cut)

    # 5: chunks
    add("a chunk's ciphertext", container(key, flipped(data, 56)), "chunk", "chunk 0")
    add("a chunk's tag", container(key, flipped(data, len(data) - 1)), "chunk", "chunk 0")
    add("one byte of the last chunk is missing", container(key, data[:-1]), "chunk", "chunk 0")
    add("one byte too many in the last chunk", container(key, data + b"\0"), "chunk", "chunk 0")
    add("an empty last chunk that was not sealed",
        container(key, long_data[: 56 + 16400] + os.urandom(16)), "chunk", "chunk 1")
    add("the first chunk as the last", container(key, long_data[: 56 + 16399]), "chunk", "chunk 0")
    add("the last chunk is chunk 1 of 2", container(key, long_data[:56] + chunks[0] + chunks[2]), "chunk", "chunk 1")

    # 6: the archive inside
    def with_inner(name, zip_, says):
        add(name, container(key, encrypt(input_key, key, zip_)), "archive", says)

    with_inner("nothing inside", b"", "end of the archive is missing")
    with_inner("no archive inside", b"a letter" * 10, "end of the archive is missing")
    with_inner("an archive that is cut off", inside[:-1], "end of the archive is missing")
    with_inner("bytes before the archive inside", b"\0" + inside, "directory is not where")
    with_inner("a name that leads out", inner([("../evil", b"x")]), "“..”")
    with_inner("an absolute name", inner([("/evil", b"x")]), "absolute")
    with_inner("a name twice", inside_twice(), "twice")
    with_inner("a file that is a folder, too", inner([("a", b"x"), ("a/b", b"y")]), "folder and something else")
    with_inner("bzip2 inside", inner([("a", b"x" * 100)], zipfile.ZIP_BZIP2), "method 12")
    small = inner([("a", b"content")], zipfile.ZIP_STORED)
    with_inner("a wrong checksum inside", small.replace(struct.pack("<I", zlib.crc32(b"content")), b"\0\0\0\0"),
               "checksum")
    with_inner("a local header that differs", flipped(small, 10), "two headers that differ")
    encrypted = bytearray(small)
    encrypted[6] |= 1
    encrypted[small.index(b"PK\1\2") + 8] |= 1
    with_inner("encrypted once more", bytes(encrypted), "encrypted once more")
    return out


def inside_twice():
    out = io.BytesIO()
    warnings.simplefilter("ignore")
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    return out.getvalue()


if __name__ == "__main__":
    if sys.argv[1:] == ["--vectors"]:
        print(json.dumps(vectors(), indent=0, ensure_ascii=False))
    else:
        certificate, envelope, *paths = sys.argv[1:]
        files = [(os.path.basename(path), open(path, "rb").read()) for path in paths]
        open(envelope, "wb").write(seal(open(certificate, "rb").read(), files))
