//! What is in DER, or in PEM around it.

/// What a file holds: the DER of the first block with one of these labels, or the file itself if it is no PEM. A message in
/// BER is no DER, and comes out as well.
///
/// # Errors
/// In text: there is no such block, or it is damaged.
pub(crate) fn decode(bytes: Vec<u8>, labels: &[&str]) -> Result<Vec<u8>, String> {
    const MARK: &[u8] = b"-----BEGIN ";
    if !bytes.windows(MARK.len()).any(|window| window == MARK) {
        return Ok(bytes);
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is no PEM text".to_owned())?;
    let starts = labels.iter().filter_map(|label| text.find(&format!("-----BEGIN {label}-----")));
    let start = starts.min().ok_or_else(|| format!("there is no “{}” in it", labels.join("” or “")))?;
    let (_, der) =
        der::pem::decode_vec(first_block(&text[start..]).as_bytes()).map_err(|why| why.to_string())?;
    Ok(der)
}

/// Up to the end of its first block.
fn first_block(text: &str) -> &str {
    const END: &str = "-----END ";
    let end = text.find(END).map(|at| at + END.len());
    let end = end.and_then(|from| text[from..].find("-----").map(|at| from + at + 5));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_with_a_label_is_taken_and_anything_else_stays_as_it_is() {
        let text =
            "hello\n-----BEGIN B-----\nAQID\n-----END B-----\n-----BEGIN A-----\nBAU=\n-----END A-----\n";
        assert_eq!(decode(text.into(), &["A"]), Ok(vec![4, 5]));
        assert_eq!(decode(text.into(), &["A", "B"]), Ok(vec![1, 2, 3]));
        assert!(decode(text.into(), &["C"]).is_err());
        assert!(decode("-----BEGIN A-----\n!!\n-----END A-----\n".into(), &["A"]).is_err());
        assert!(decode("-----BEGIN A-----\nAQID".into(), &["A"]).is_err());
        assert_eq!(decode(vec![0x30, 0x80], &["A"]), Ok(vec![0x30, 0x80]));
    }
}
