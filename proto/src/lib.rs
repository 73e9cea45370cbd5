//! What client and server agree on: the gRPC API (`v1`) and the words of the field, as types that hold only values
//! that make sense.

pub mod approval;
pub mod email;
pub mod identity;
pub mod key;
pub mod limits;
pub mod openpgp;
pub mod pkcs11;
pub mod refusal;
pub mod secret;
pub mod sign;
pub mod tlog;
pub mod tsp;

/// The generated messages and services of `custodian.v1`. The comments are those of the .proto files.
#[allow(missing_docs, unreachable_pub, clippy::all, rust_2018_idioms)]
pub mod v1 {
    tonic::include_proto!("custodian.v1");
}

/// The encoded `FileDescriptorSet` of the API, for server reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// The `domain` of every `google.rpc.ErrorInfo` that the custodian sends.
pub const ERROR_DOMAIN: &str = "custodian";
