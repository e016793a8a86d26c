//! Where the log goes: to standard error, but not across a screen that is up.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is kept while a screen is up; older lines give way.
const HELD_BYTES_MAX: usize = 64 << 10;

/// The lines that wait for the screen to go; `None` while there is none.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// A writer for the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log;

fn held() -> MutexGuard<'static, Option<Vec<u8>>> {
    // Bytes stay bytes, whoever panicked.
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on lines wait.
pub(super) fn hold() {
    held().get_or_insert_default();
}

/// Writes what waited; from now on lines go out at once.
pub(super) fn release() {
    if let Some(bytes) = held().take() {
        // If standard error is closed, nobody wants to read it.
        drop(io::stderr().write_all(&bytes));
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *held() {
            None => io::stderr().write_all(bytes)?,
            Some(held) => {
                held.extend_from_slice(bytes);
                if held.len() > HELD_BYTES_MAX {
                    let surplus = held.len() - HELD_BYTES_MAX;
                    let rest = held[surplus..].iter().position(|&byte| byte == b'\n');
                    held.drain(..rest.map_or(held.len(), |end| surplus + end + 1));
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_stays_bounded_and_whole() {
        hold();
        for number in 0..20_000 {
            writeln!(Log, "line {number}").unwrap();
        }

        let kept = held().take().unwrap();

        assert!(kept.len() <= HELD_BYTES_MAX);
        assert!(kept.starts_with(b"line "), "only whole lines are kept");
        assert!(kept.ends_with(b"line 19999\n"));
    }
}
