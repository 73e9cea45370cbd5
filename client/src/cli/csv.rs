//! CSV (RFC 4180) that a spreadsheet takes for what it is: text from outside can start neither a line nor a formula.

use super::text::printable;

/// One row, with its line end.
pub(super) fn row<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let cells: Vec<String> = cells.into_iter().map(cell).collect();
    cells.join(",") + "\r\n"
}

/// Quoted always; quotes doubled; control characters written as `\u{…}`. What a spreadsheet would compute gets an
/// apostrophe in front, as a person would type it.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@']);
    let apostrophe = if formula { "'" } else { "" };
    format!("\"{apostrophe}{}\"", printable(text).replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_starts_a_line_a_cell_or_a_formula() {
        assert_eq!(row(["7", "anna", ""]), "\"7\",\"anna\",\"\"\r\n");
        assert_eq!(row(["a\",\"b"]), "\"a\"\",\"\"b\"\r\n");
        assert_eq!(row(["a\r\n8,OK"]), "\"a\\u{d}\\u{a}8,OK\"\r\n");
        for formula in ["=HYPERLINK(\"http://x\")", "+1", "-1", "@SUM(A1)"] {
            assert!(row([formula]).starts_with("\"'"), "{formula}");
        }
        // Hidden behind what a spreadsheet cuts off.
        assert_eq!(row(["\t=1"]), "\"\\u{9}=1\"\r\n");
        assert_eq!(row(["\u{feff}=1"]), "\"\\u{feff}=1\"\r\n");
        assert_eq!(row(["Größe"]), "\"Größe\"\r\n");
    }
}
