#!/usr/bin/env python3
"""Writes vectors.json and the certificates beside it: signed envelopes, sound and tampered with.

Run it with the path of the `envelope` program. It seals and signs; openssl makes the keys and unwraps the file key; the
tampering is done here, by a reading of docs/formats/signature.md.
"""

import base64, hashlib, json, os, pathlib, struct, subprocess, sys, tempfile, zlib

HERE = pathlib.Path(__file__).parent
ENVELOPE = sys.argv[1]
MARK = b"\nCMS1 "
END = b"PK\5\6"


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, **options).stdout


def person(folder, name):
    """A key with a certificate for a hundred years."""
    key, certificate = folder / f"{name}.key", HERE / f"{name}.crt"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "36500",
        "-subj", f"/CN={name}", "-addext", f"subjectAltName=email:{name}@example.org", "-addext",
        "keyUsage=critical,digitalSignature", "-keyout", key, "-out", certificate)
    pem = folder / f"{name}.pem"
    pem.write_text(key.read_text() + certificate.read_text())
    pem.chmod(0o600)
    return pem, hashlib.sha256(run("openssl", "x509", "-in", certificate, "-outform", "DER")).digest()


def bare_of(form, signed):
    """The envelope as it was before it was signed."""
    if form == "cms":
        start = signed.rindex(bytes.fromhex("060b2a864886f70d0109100117")) - 4
        return signed[start:start + 4 + struct.unpack(">H", signed[start + 2:start + 4])[0]]
    end, mark = signed.rindex(END), signed.rindex(MARK)
    bare = bytearray(signed[:mark])
    struct.pack_into("<H", bare, end + 20, mark - end - 22)
    return bytes(bare)


def attach(form, bare, signature):
    """A ZIP with a signature in its comment."""
    end = bare.rindex(END)
    signed = bytearray(bare + MARK + base64.b64encode(signature))
    struct.pack_into("<H", signed, end + 20, len(signed) - end - 22)
    return bytes(signed)


def sign(folder, pem, content):
    """A detached signature."""
    (folder / "content").write_bytes(content)
    return run(ENVELOPE, "sign", "-q", "--with", pem, "-o", "-", folder / "content")


def with_mark(form, bare, old, new):
    """Another sender's mark, and the checksum of CIPHER.KEY that goes with it."""
    assert bare.count(old) == 1
    changed = bytearray(bare.replace(old, new))
    if form != "cms":
        size = struct.unpack_from("<I", changed, 22)[0]
        start = 30 + sum(struct.unpack_from("<HH", changed, 26))
        crc = zlib.crc32(changed[start:start + size])
        struct.pack_into("<I", changed, 14, crc)
        struct.pack_into("<I", changed, changed.index(b"PK\1\2") + 16, crc)
    return bytes(changed)


def file_key(folder, bare):
    wrapped = bare[bare.index(b"\x04\x82\x01\x00") + 4:][:256]
    (folder / "wrapped").write_bytes(wrapped)
    return run("openssl", "pkeyutl", "-decrypt", "-inkey", folder / "rsa.key", "-in", folder / "wrapped", "-pkeyopt",
               "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256")


def vectors(folder):
    anna, annas_mark = person(folder, "anna")
    bert, berts_mark = person(folder, "bert")
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500", "-subj", "/CN=sample", "-keyout",
        folder / "rsa.key", "-out", folder / "rsa.crt")
    (folder / "file").write_bytes(b"content")
    for form in ["mtd", "sealed", "cms"]:
        def seal(*more):
            return run(ENVELOPE, "seal", "-q", "--to", folder / "rsa.crt", "--format", form, "-o", "-", *more, folder / "file")

        signed, unsigned = seal("--sign-with", anna), seal()
        bare = bare_of(form, signed)
        key = file_key(folder, bare).hex()

        def vector(name, stage, says, envelope):
            envelope = base64.b64encode(envelope).decode()
            return dict(name=f"{form}: {name}", format=form, stage=stage, says=says, file_key=key, envelope=envelope)

        yield vector("sound", "none", "CN=anna", signed)
        yield vector("not signed", "sender", "not signed", unsigned)
        yield vector("a bit of the content flipped", "signature", "not what was signed",
                     signed.replace(bare, bare[:-40] + bytes([bare[-40] ^ 1]) + bare[-39:]) if form == "cms"
                     else flipped(signed, bare.rindex(b"PK\1\2") - 4))
        wrapped = bare.index(b"\x04\x82\x01\x00") + 4
        at = signed.index(bare[wrapped:wrapped + 256])
        yield vector("another wrapped key", "signature", "not what was signed", signed[:at] + os.urandom(256) + signed[at + 256:])
        yield vector("cut off", "signature", "", signed[:-1])
        yield vector("signed by somebody who is not accepted", "sender", "CN=bert", seal("--sign-with", bert))
        yield vector("signature taken away", "stripped", "", bare)
        if form == "cms":
            continue
        yield vector("signature of another envelope", "signature", "not what was signed",
                     attach(form, bare, sign(folder, anna, unsigned)))
        yield vector("signature of somebody else", "mark", "somebody else", attach(form, bare, sign(folder, bert, bare)))
        changed = with_mark(form, bare, annas_mark, berts_mark)
        yield vector("signature and mark of somebody else", "content", "CIPHER.KEY does not open",
                     attach(form, changed, sign(folder, bert, changed)))
        yield vector("no base64", "signature", "base64", signed[:-1] + b"!")
        yield vector("signature that is none", "signature", "", attach(form, bare, b"0\3\2\1\1"))


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


with tempfile.TemporaryDirectory() as folder:
    written = list(vectors(pathlib.Path(folder)))
(HERE / "vectors.json").write_text(json.dumps(written, indent=1) + "\n")
print(len(written), "vectors")
