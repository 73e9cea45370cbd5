//! What an approver sees: exactly the request that the approval is bound to.

use custodian_proto::{
    DESCRIPTOR_SET,
    approval::{Bound, Glass},
    v1,
};
use jiff::Timestamp;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind as FieldKind, ReflectMessage, Value,
};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};

/// What stands for a field that has no value.
const NOT_SET: &str = "(not set)";

/// The field that is taken out of requests before they are kept.
const PASSWORD: &str = "password";

/// All fields of an approval's request, by their names: `name`, `claims.file_name`. Also those that are false, 0, empty or not
/// set: they mean something. Checks first that it is the request that the approval is bound to, so that what is shown is what
/// is approved.
///
/// # Errors
/// [`Kind::Integrity`] if the SHA-256 is of something else; [`Kind::Local`] if the request has parts that this program does
/// not know: a later version does.
pub fn fields(approval: &v1::Approval) -> Result<Vec<(String, String)>> {
    let what = format!("cannot show what {} is for", approval.name);
    let bound = Bound {
        operation: &approval.operation,
        user: &approval.user,
        device: &approval.device,
        glass: if approval.break_glass { Glass::Broken } else { Glass::Whole },
        message: &approval.request,
    };
    if hex::encode(bound.sha256()) != approval.request_sha256 {
        let why = "what the custodian shows is not what the approval is bound to";
        return Err(Error::new(Kind::Integrity, what, why).hint("do not approve it; tell the auditors"));
    }
    let unknown = |why: String| {
        Error::new(Kind::Local, &what, why).hint("use the custodianctl of the custodian's version")
    };
    let pool = DescriptorPool::decode(DESCRIPTOR_SET).map_err(|error| unknown(error.to_string()))?;
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let ours = methods.into_iter().find(|method| {
        method.name() == approval.operation && method.parent_service().package_name() == "custodian.v1"
    });
    let input = ours
        .ok_or_else(|| unknown(format!("this program does not know the operation {}", approval.operation)))?
        .input();
    let message = DynamicMessage::decode(input, approval.request.as_slice())
        .map_err(|error| unknown(format!("the request cannot be read: {error}")))?;
    let mut fields = Vec::new();
    list("", &message, &mut fields)
        .map_err(|()| unknown("the request has parts that this program does not know".into()))?;
    Ok(fields)
}

/// Fails if there is something that nobody would see.
fn list(
    prefix: &str,
    message: &DynamicMessage,
    fields: &mut Vec<(String, String)>,
) -> std::result::Result<(), ()> {
    if message.unknown_fields().next().is_some() {
        return Err(());
    }
    for field in message.descriptor().fields() {
        let name = format!("{prefix}{}", field.name());
        let shown = match message.get_field(&field).as_ref() {
            // It is no part of what is kept.
            _ if field.name() == PASSWORD => "(never shown)".to_owned(),
            _ if field.supports_presence() && !message.has_field(&field) => NOT_SET.to_owned(),
            Value::Message(inner) if instant(inner).is_none() => {
                list(&format!("{name}."), inner, fields)?;
                continue;
            }
            Value::List(values) if values.is_empty() => "(none)".to_owned(),
            Value::List(values) => {
                values.iter().map(|value| text(&field, value)).collect::<Vec<_>>().join(", ")
            }
            Value::String(value) if value.is_empty() => NOT_SET.to_owned(),
            value => text(&field, value),
        };
        fields.push((name, shown));
    }
    Ok(())
}

fn text(field: &FieldDescriptor, value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Bytes(value) => {
            format!("{} bytes, SHA-256 {}", value.len(), hex::encode(Sha256::digest(value)))
        }
        Value::EnumNumber(number) => match field.kind() {
            FieldKind::Enum(kind) => {
                kind.get_value(*number).map_or_else(|| number.to_string(), |value| value.name().to_owned())
            }
            _ => number.to_string(),
        },
        Value::Message(message) => {
            instant(message).map_or_else(|| format!("{message:?}"), |time| time.to_string())
        }
        Value::List(_) | Value::Map(_) => format!("{value:?}"),
    }
}

/// The time that a message is, if it is one.
fn instant(message: &DynamicMessage) -> Option<Timestamp> {
    if message.descriptor().full_name() != "google.protobuf.Timestamp" {
        return None;
    }
    let part = |name| message.get_field_by_name(name);
    let seconds = part("seconds")?.as_i64()?;
    let nanos = part("nanos")?.as_i32()?;
    Timestamp::new(seconds, nanos).ok()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn approval(operation: &str, request: Vec<u8>) -> v1::Approval {
        let (user, device) = ("users/anna".to_owned(), "devices/laptop-7".to_owned());
        let bound = Bound { operation, user: &user, device: &device, glass: Glass::Whole, message: &request };
        let request_sha256 = hex::encode(bound.sha256());
        let (name, operation) = ("approvals/17".to_owned(), operation.to_owned());
        v1::Approval { name, operation, user, device, request, request_sha256, ..v1::Approval::default() }
    }

    fn shown(fields: &[(String, String)]) -> String {
        fields.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    #[test]
    fn every_field_is_shown_set_or_not() {
        let request = v1::SetRolesRequest {
            name: "users/bob".into(),
            roles: vec![v1::Role::Admin.into(), v1::Role::Auditor.into()],
        };
        let fields = fields(&approval("SetRoles", request.encode_to_vec())).unwrap();
        assert_eq!(shown(&fields), "name=users/bob\nroles=ROLE_ADMIN, ROLE_AUDITOR\n");

        let request = v1::UnwrapRequest {
            key: "keys/ab".into(),
            wrapped_key: vec![1, 2, 3],
            claims: Some(v1::Claims { file_name: "a.mtd".into(), file_size: 7, ..Default::default() }),
            ..Default::default()
        };
        let text = shown(&super::fields(&approval("Unwrap", request.encode_to_vec())).unwrap());
        assert!(
            text.contains("claims.file_name=a.mtd\nclaims.file_size=7\nclaims.format=(not set)\n"),
            "{text}"
        );
        assert!(text.contains("wrapped_key=3 bytes, SHA-256 039058c6"), "{text}");

        let until = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 };
        let request = v1::LimitKeyRequest { unwrap_end_time: Some(until), ..Default::default() };
        let text = shown(&super::fields(&approval("LimitKey", request.encode_to_vec())).unwrap());
        assert_eq!(text, "name=(not set)\nunwrap_end_time=2023-11-14T22:13:20Z\nreason=(not set)\n");
        // Its opposite: the key unwraps without end.
        let request = v1::LimitKeyRequest { name: "keys/ab".into(), ..Default::default() };
        let text = shown(&super::fields(&approval("LimitKey", request.encode_to_vec())).unwrap());
        assert_eq!(text, "name=keys/ab\nunwrap_end_time=(not set)\nreason=(not set)\n");

        for (required, says) in [(true, "required=true\n"), (false, "required=false\n")] {
            let request = v1::RequireFactorRequest { name: "users/anna".into(), required };
            let text = shown(&super::fields(&approval("RequireFactor", request.encode_to_vec())).unwrap());
            assert!(text.contains(says), "{text}");
        }
        let request = v1::CreateUserRequest { user_id: "eve".into(), ..Default::default() };
        let text = shown(&super::fields(&approval("CreateUser", request.encode_to_vec())).unwrap());
        assert!(text.contains("user_id=eve\n") && text.contains("password=(never shown)\n"), "{text}");
        assert!(text.contains("roles=(none)\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_shown_is_not_approved() {
        let good = approval("SetRoles", v1::SetRolesRequest::default().encode_to_vec());
        assert!(fields(&good).is_ok());
        let other = v1::Approval { user: "users/eve".into(), ..good.clone() };
        assert_eq!(fields(&other).unwrap_err().kind, Kind::Integrity);
        let other = v1::Approval { break_glass: true, ..good };
        assert_eq!(fields(&other).unwrap_err().kind, Kind::Integrity);
        // Field 99, which a later version may have.
        let later = approval("SetRoles", vec![0x9a, 0x06, 0x01, 0x41]);
        assert!(fields(&later).unwrap_err().why.contains("does not know"));
        assert!(fields(&approval("Fly", vec![])).unwrap_err().why.contains("operation Fly"));
        assert!(fields(&approval("SetRoles", vec![0xff])).is_err());
    }
}
