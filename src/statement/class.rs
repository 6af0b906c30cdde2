//! Whether a text writes data, and may share a transaction with other writes.

use open_cypher::{Keyword, TokenKind};

use super::tokens::Tokens;

/// Words that may begin a statement of data. Everything else is a command, a prefix, or unknown.
const BEGINS: [&str; 8] = ["MATCH", "OPTIONAL", "MERGE", "CREATE", "UNWIND", "WITH", "CALL", "FOREACH"];

/// Words that begin a command wherever they stand before another word.
const COMMANDS: [&str; 20] = [
    "ALTER",
    "CYPHER",
    "DEALLOCATE",
    "DENY",
    "DROP",
    "DRYRUN",
    "ENABLE",
    "EXPLAIN",
    "GRANT",
    "LOAD",
    "PERIODIC",
    "PROFILE",
    "REALLOCATE",
    "RENAME",
    "REVOKE",
    "SHOW",
    "START",
    "STOP",
    "TERMINATE",
    "USE",
];

/// Says why no group may take this text; no reason = it writes data, and may run beside other writes.
pub(super) fn judge(tokens: &Tokens<'_>) -> Result<(), &'static str> {
    if let Some(doubt) = tokens.doubt {
        return Err(doubt);
    }
    if tokens.len() == 0 {
        return Err("it is empty");
    }
    if !BEGINS.iter().any(|word| tokens.is(0, word)) {
        return Err("it does not begin like a write of data");
    }
    let mut writes = false;
    for at in 0..tokens.len() {
        match tokens.kind(at) {
            Some(TokenKind::Semicolon) if at + 1 < tokens.len() => {
                return Err("it is more than one statement");
            }
            Some(TokenKind::Keyword(_) | TokenKind::Identifier) if !tokens.is_named(at) => {
                writes |= word(tokens, at)?;
            }
            _ => {}
        }
    }
    if writes { Ok(()) } else { Err("it writes nothing") }
}

/// True if the word there is a clause that writes.
fn word(tokens: &Tokens<'_>, at: usize) -> Result<bool, &'static str> {
    let next = tokens.kind(at + 1);
    match tokens.kind(at) {
        Some(TokenKind::Keyword(Keyword::Call)) => match next {
            Some(TokenKind::LeftBrace | TokenKind::LeftParen) => Ok(false),
            _ => Err("it calls a procedure"),
        },
        Some(TokenKind::Keyword(Keyword::Create)) => match next {
            Some(TokenKind::LeftParen) => Ok(true),
            _ if tokens.kind(at + 2) == Some(TokenKind::Equal) => Ok(true),
            _ if tokens.before(at) == Some(TokenKind::Keyword(Keyword::On)) => Ok(false),
            _ => Err("it creates something else than nodes and relationships"),
        },
        Some(TokenKind::Keyword(Keyword::Merge)) => {
            Ok(next == Some(TokenKind::LeftParen) || tokens.kind(at + 2) == Some(TokenKind::Equal))
        }
        Some(TokenKind::Keyword(Keyword::Set | Keyword::Remove | Keyword::Delete)) => {
            Ok(begins_operand(next) && !is_operand(tokens.before(at)))
        }
        Some(TokenKind::Keyword(Keyword::In))
            if tokens.before(at) == Some(TokenKind::RightBrace) || is_concurrent(tokens, at) =>
        {
            Err("it commits on its own (IN TRANSACTIONS)")
        }
        _ if tokens.is(at, "TRANSACTIONS") || tokens.is(at, "TRANSACTION") => {
            Err("it commits on its own (IN TRANSACTIONS)")
        }
        _ if tokens.is(at, "FOREACH") => Ok(next == Some(TokenKind::LeftParen)),
        _ if tokens.is(at, "CSV") && at > 0 && tokens.is(at - 1, "LOAD") => Err("it loads a file"),
        _ if COMMANDS.iter().any(|command| tokens.is(at, command)) && is_command(tokens, at) => {
            Err("it has a command of another kind")
        }
        _ => Ok(false),
    }
}

fn is_concurrent(tokens: &Tokens<'_>, at: usize) -> bool {
    tokens.is(at + 1, "CONCURRENT") || tokens.is(at + 2, "CONCURRENT") || tokens.is(at + 3, "CONCURRENT")
}

/// A command stands before another word, a name or a parameter; a variable of that name does not.
fn is_command(tokens: &Tokens<'_>, at: usize) -> bool {
    let next = tokens.kind(at + 1);
    begins_name(next) || next == Some(TokenKind::String)
}

/// True behind what wants an operand: the word there is a variable, not a clause.
fn is_operand(before: Option<TokenKind>) -> bool {
    matches!(
        before,
        Some(
            TokenKind::LeftParen
                | TokenKind::LeftBracket
                | TokenKind::Comma
                | TokenKind::Equal
                | TokenKind::Keyword(
                    Keyword::Return
                        | Keyword::With
                        | Keyword::Where
                        | Keyword::And
                        | Keyword::Or
                        | Keyword::Xor
                        | Keyword::Not
                        | Keyword::By
                        | Keyword::In
                        | Keyword::Unwind
                )
        )
    )
}

/// What may follow SET, REMOVE and DELETE: a variable, an expression in brackets, a parameter.
fn begins_operand(next: Option<TokenKind>) -> bool {
    begins_name(next) || next == Some(TokenKind::LeftParen)
}

/// The beginning of a word, a name or a parameter.
fn begins_name(next: Option<TokenKind>) -> bool {
    matches!(
        next,
        Some(
            TokenKind::Keyword(_)
                | TokenKind::Identifier
                | TokenKind::EscapedIdentifier
                | TokenKind::Parameter
                | TokenKind::Dollar
        )
    )
}
