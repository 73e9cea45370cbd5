//! Compiles the .proto files with protox, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "session",
        "custody",
        "timestamp",
        "keys",
        "devices",
        "users",
        "factor",
        "audit",
        "log",
        "status",
        "tokens",
        "policies",
        "approvals",
        "budgets",
        "certificates",
    ]
    .map(|name| format!("custodian/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), descriptors.encode_to_vec())?;
    // Messages that carry a secret must not print (law 9).
    let secrets = [
        "LoginRequest",
        "LoginResponse",
        "UnwrapResponse",
        "UnwrapBatchResponse",
        "WrapRequest",
        "InviteDeviceResponse",
        "EnrollRequest",
        "CreateUserRequest",
        "SetPasswordRequest",
        "StepUpRequest",
        "EnrollFactorResponse",
        "ConfirmFactorRequest",
        "ConfirmFactorResponse",
    ];
    tonic_prost_build::configure()
        .skip_debug(secrets.map(|message| format!(".custodian.v1.{message}")))
        .compile_fds(descriptors)?;
    Ok(())
}
