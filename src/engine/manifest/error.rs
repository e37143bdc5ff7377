//! Errors in a manifest, shown with the line and a caret under the span.

use std::fmt;

/// A span in the manifest or in a `--set`.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSpan {
    /// The manifest's path, or `--set`.
    pub source: String,
    /// From 1; 0 in a `--set`, which has no lines.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters.
    pub length: usize,
    /// The line of the span.
    pub text: String,
}

/// At most this many errors are shown.
const SHOWN: usize = 10;

#[derive(Debug)]
pub struct ManifestError {
    pub message: String,
    pub span: Option<Box<SourceSpan>>,
    pub help: Option<String>,
    /// Further errors, reported together with this one.
    pub others: Vec<ManifestError>,
}

impl ManifestError {
    pub fn new(message: impl Into<String>, span: Option<SourceSpan>) -> Self {
        Self { message: message.into(), span: span.map(Box::new), help: None, others: Vec::new() }
    }

    pub fn help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// Fails with all `errors`, if there are any.
    pub fn tell(errors: Vec<Self>) -> Result<(), Self> {
        let each = |mut error: Self| {
            let others = std::mem::take(&mut error.others);
            std::iter::once(error).chain(others)
        };
        let mut errors = errors.into_iter().flat_map(each);
        let Some(first) = errors.next() else { return Ok(()) };
        Err(Self { others: errors.collect(), ..first })
    }
}

impl std::error::Error for ManifestError {}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(span) = &self.span {
            let number = if span.line == 0 { String::new() } else { span.line.to_string() };
            let margin = " ".repeat(number.len());
            let position = if span.line == 0 { String::new() } else { format!(":{}:{}", span.line, span.column) };
            let before: String =
                span.text.chars().take(span.column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
            write!(f, "\n {margin}--> {}{position}\n {margin} |", span.source)?;
            write!(f, "\n {number} | {}\n {margin} | {before}{}", span.text, "^".repeat(span.length.max(1)))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n = help: {help}")?;
        }
        for other in self.others.iter().take(SHOWN - 1) {
            write!(f, "\nerror: {other}")?;
        }
        match (self.others.len() + 1).saturating_sub(SHOWN) {
            0 => {}
            more => write!(f, "\nand {more} more errors")?,
        }
        Ok(())
    }
}

/// A help text for an unknown name: "did you mean …" if it is similar to one of `known`, otherwise the list of `known`.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let close = known.iter().map(|candidate| (strsim::jaro_winkler(name, candidate), candidate));
    let best = close.max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, best)) if likeness > 0.75 => Some(format!("did you mean `{best}`?")),
        Some(_) => Some(format!("choose one of: {}", known.join(", "))),
        None => None,
    }
}
