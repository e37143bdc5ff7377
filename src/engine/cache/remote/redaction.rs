//! Removes secrets and repetition from messages about a remote cache.

use object_store::Error;
use reqwest::Url;

/// An address without user, password and query, which may be secret.
pub fn shown(remote: &str) -> String {
    match Url::parse(remote) {
        Ok(mut address) if remote.contains("://") => {
            // Both fail only for addresses that cannot have a user.
            let _ = (address.set_username(""), address.set_password(None));
            address.set_query(None);
            address.to_string().trim_end_matches('/').to_owned()
        }
        // In an invalid address, a secret may be anywhere.
        _ => remote.split_once("://").map_or_else(|| remote.to_owned(), |(scheme, _)| format!("{scheme}://…")),
    }
}

/// A message whose addresses have no query. Presigned addresses and those of Azure have their signature in it.
pub fn redacted(message: &str) -> String {
    let word = |word: &str| match word.split_once('?') {
        Some((start, _)) if start.contains("://") => format!("{start}?…"),
        _ => word.to_owned(),
    };
    message.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// A short text for an error of a client. Such errors have many layers, and each repeats the next one.
pub fn brief(error: &Error) -> String {
    match error {
        Error::Unauthenticated { .. } => "the credentials are not accepted (401)".to_owned(),
        Error::PermissionDenied { source, .. } => {
            format!("the credentials do not allow it (403): {}", first_line(&source.to_string()))
        }
        error => {
            let mut said = Vec::new();
            let mut cause: Option<&dyn std::error::Error> = Some(error);
            while let Some(error) = cause {
                said.push(error.to_string());
                cause = error.source();
            }
            // The outermost error says what was tried, and the innermost says why it failed.
            let (first, last) = (said.first().cloned().unwrap_or_default(), said.last().cloned().unwrap_or_default());
            if first.contains(&last) {
                first_line(&first)
            } else {
                format!("{}: {}", first_line(&first), first_line(&last))
            }
        }
    }
}

fn first_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        assert_eq!(shown("s3://bucket/prefix/"), "s3://bucket/prefix");
        assert_eq!(shown("s3://me:secret@bucket/a?sig=secret"), "s3://bucket/a");
        assert_eq!(shown("../shared"), "../shared");
        assert_eq!(shown("s3://me:secret@bucket:port/x"), "s3://…");
        let said = redacted("GET https://x.blob.core.windows.net/c/b?sv=1&sig=secret failed: really?");
        assert_eq!(said, "GET https://x.blob.core.windows.net/c/b?… failed: really?");
    }
}
