//! What expressions see: a user's variables, its rows of data, and the answer that is looked at.

use std::cell::OnceCell;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::SplitMix;
use hyperscale_plan::expr::{Answer, EvalError, Scope, Value, Var};
use hyperscale_plan::{DataIndex, DataSource, Pick, Plan};

use crate::clock;
use crate::connection::Kept;
use crate::run::Run;

/// The largest body after decompression.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// The rows of a plan's data sources, read once for all cores of an attempt.
#[derive(Debug)]
pub(crate) struct Rows(Vec<Vec<Value>>);

impl Rows {
    pub(crate) fn read(
        plan: &Plan,
        blobs: &std::collections::BTreeMap<hyperscale_model::BlobHash, Arc<[u8]>>,
    ) -> Result<Self, String> {
        plan.data
            .iter()
            .map(|source| read_source(source, blobs))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn read_source(
    source: &DataSource,
    blobs: &std::collections::BTreeMap<hyperscale_model::BlobHash, Arc<[u8]>>,
) -> Result<Vec<Value>, String> {
    let bytes = blobs.get(&source.blob).ok_or("its data did not come along")?;
    let rows = serde_json::Deserializer::from_slice(bytes).into_iter::<serde_json::Value>();
    rows.map(|row| {
        let row = row.map_err(|error| format!("data `{}`: {error}", source.name))?;
        Ok(match (&source.columns, row) {
            (Some(columns), serde_json::Value::Array(fields)) => {
                let fields = fields.iter().map(Value::from_json);
                Value::Map(Arc::new(columns.iter().cloned().zip(fields).collect()))
            }
            (_, row) => Value::from_json(&row),
        })
    })
    .collect()
}

/// What stays the same within an iteration.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    /// The user's number over the whole load, from 0.
    pub(crate) user: u64,
    /// The number of the user's iteration, from 0.
    pub(crate) iteration: u64,
    /// The number of the iteration over the whole load, which decides its rows.
    pub(crate) row: u64,
    /// Its draw of unique rows, if it made one.
    pub(crate) draw: Option<u64>,
}

/// A user's variables, for as long as an expression is evaluated.
pub(crate) struct UserScope<'a> {
    pub(crate) run: &'a Run,
    pub(crate) place: Place,
    pub(crate) locals: &'a [Value],
    pub(crate) random: &'a mut SplitMix,
    pub(crate) answer: Option<&'a dyn Answer>,
}

impl Scope for UserScope<'_> {
    fn variable(&self, var: &Var) -> Result<Value, EvalError> {
        let missing = |what: String| Err(EvalError(what));
        let number = |number: u64| Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)));
        let work = &self.run.work;
        match var {
            Var::Secret(index) => {
                let name = work.plan.secrets.get(usize::from(*index));
                match name.and_then(|name| work.secrets.0.get(name)) {
                    Some(secret) => Ok(Value::text(secret)),
                    None => missing("a secret has no value here".to_owned()),
                }
            }
            Var::VuId => number(self.place.user + 1),
            Var::VuIteration => number(self.place.iteration),
            Var::RunId => Ok(Value::text(&work.attempt.shard.job.to_string())),
            Var::Datacenter => Ok(Value::text(work.datacenter.as_str())),
            Var::Now => number(clock::wall_millis()),
            Var::Row(index) => self.row(*index),
            Var::Local(local) => match self.locals.get(local.get()) {
                None | Some(Value::Null) => {
                    let names = &self.run.workflow().locals;
                    let name = names.get(local.get()).map_or("?", String::as_str);
                    missing(format!("`{name}` has no value yet"))
                }
                Some(value) => Ok(value.clone()),
            },
            Var::Published(workflow, name) => match work.context.get(*workflow, name) {
                Some(value) => Ok(value.clone()),
                None => missing(format!("`{name}` was not published")),
            },
            Var::Status | Var::Latency | Var::FirstByte | Var::Size | Var::Body => {
                missing("there is no answer here".to_owned())
            }
        }
    }

    fn answer(&self) -> Option<&dyn Answer> {
        self.answer
    }

    fn random(&mut self) -> &mut SplitMix {
        self.random
    }
}

impl UserScope<'_> {
    fn row(&self, index: DataIndex) -> Result<Value, EvalError> {
        let (Some(source), Some(rows)) =
            (self.run.plan().data.get(index.get()), self.run.rows().0.get(index.get()))
        else {
            return Err(EvalError("there is no such data".to_owned()));
        };
        let count = rows.len() as u64;
        if count == 0 {
            return Err(EvalError(format!("data `{}` has no rows", source.name)));
        }
        let seed = |kind| SplitMix::new(self.run.seed_of(kind, 1_000 + u64::from(index.0)));
        let row = match source.pick {
            Pick::Unique => {
                // Not in an iteration: in the setup of a user, which draws nothing.
                let draw = self.place.draw.ok_or_else(|| {
                    EvalError(format!("only an iteration has a row of `{}`", source.name))
                })?;
                let row = self.run.unique_row(index, draw);
                row.ok_or_else(|| EvalError(format!("data `{}` is used up", source.name)))?
            }
            Pick::Sequential => self.place.row % count,
            Pick::Random => seed(self.place.row).below(count),
            Pick::Shuffle => {
                // Each round has an order of its own.
                shuffled(self.place.row % count, count, &mut seed(self.place.row / count))
            }
        };
        Ok(rows[usize::try_from(row).unwrap_or(0)].clone())
    }
}

/// Where `index` goes in a permutation of `count` numbers that follows from `random`: a Feistel
/// network over the next power of four, walked until it is back in range (Black and Rogaway 2002).
fn shuffled(index: u64, count: u64, random: &mut SplitMix) -> u64 {
    let half_bits = (64 - (count - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half_bits) - 1;
    let keys: [u64; 4] = std::array::from_fn(|_| random.next_u64());
    let mut at = index;
    loop {
        let (mut left, mut right) = (at >> half_bits, at & mask);
        for key in keys {
            let mixed = SplitMix::new(right ^ key).next_u64() & mask;
            (left, right) = (right, left ^ mixed);
        }
        at = left << half_bits | right;
        if at < count {
            return at;
        }
    }
}

/// A kept answer, parsed as far as somebody asks.
pub(crate) struct Looked<'a> {
    kept: &'a Kept,
    pub(crate) status: u16,
    pub(crate) latency: Duration,
    pub(crate) first_byte: Duration,
    pub(crate) size: u64,
    body: OnceCell<Option<Vec<u8>>>,
    json: OnceCell<Option<serde_json::Value>>,
}

impl<'a> Looked<'a> {
    pub(crate) fn new(
        kept: &'a Kept,
        status: u16,
        latency: Duration,
        first_byte: Duration,
    ) -> Self {
        let size = kept.body.len() as u64;
        let (body, json) = (OnceCell::new(), OnceCell::new());
        Self { kept, status, latency, first_byte, size, body, json }
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        // Line by line: one header that is no UTF-8 must not hide the others.
        self.kept.head.split(|&byte| byte == b'\n').skip(1).filter_map(|line| {
            let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
            Some((name.trim(), value.trim()))
        })
    }

    /// The body as its author wrote it, if it came compressed in a way that we know.
    fn decompress(&self) -> Option<Vec<u8>> {
        let encoding = self.header("content-encoding")?.to_ascii_lowercase();
        let bytes = self.kept.body.as_slice();
        let mut plain = Vec::new();
        let read = match encoding.as_str() {
            "gzip" | "x-gzip" => flate2::read::MultiGzDecoder::new(bytes)
                .take(BODY_BYTES_MAX)
                .read_to_end(&mut plain),
            "deflate" => {
                flate2::read::ZlibDecoder::new(bytes).take(BODY_BYTES_MAX).read_to_end(&mut plain)
            }
            _ => return None,
        };
        // What cannot be read is shown as it came.
        read.ok().map(|_| plain)
    }
}

impl Answer for Looked<'_> {
    fn status(&self) -> u16 {
        self.status
    }

    fn latency(&self) -> Duration {
        self.latency
    }

    fn first_byte(&self) -> Duration {
        self.first_byte
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn body(&self) -> &[u8] {
        self.body.get_or_init(|| self.decompress()).as_deref().unwrap_or(&self.kept.body)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Option<&serde_json::Value> {
        self.json.get_or_init(|| serde_json::from_slice(self.body()).ok()).as_ref()
    }

    fn cookie(&self, name: &str) -> Option<&str> {
        (self.headers())
            .filter(|(known, _)| known.eq_ignore_ascii_case("set-cookie"))
            .filter_map(|(_, value)| value.split(';').next()?.split_once('='))
            .find(|(known, _)| known.trim() == name)
            .map(|(_, value)| value.trim())
    }
}

#[cfg(test)]
mod tests {
    use hyperscale_plan::expr::CompiledCapture;
    use hyperscale_plan::{CaptureFrom, CaptureIndex};
    use proptest::prelude::*;

    use super::*;

    fn kept(head: &[u8], body: &[u8]) -> Kept {
        Kept { head: head.to_vec(), body: body.to_vec(), is_cut: false }
    }

    #[test]
    fn a_header_that_is_no_text_does_not_hide_the_others() {
        let kept = kept(b"HTTP/1.1 200 OK\r\nx-name: Andr\xe9\r\nx-id: 7\r\n\r\n", b"");
        let looked = Looked::new(&kept, 200, Duration::ZERO, Duration::ZERO);

        assert_eq!(looked.header("x-id"), Some("7"));
        assert_eq!(looked.header("x-name"), None);
    }

    #[test]
    fn a_body_that_explodes_is_bounded() {
        // A gigabyte of zeros: members of a mebibyte each, one after the other.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &vec![0; 1 << 20]).unwrap();
        let bomb = encoder.finish().unwrap().repeat(1_024);
        let kept = kept(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", &bomb);
        let looked = Looked::new(&kept, 200, Duration::ZERO, Duration::ZERO);

        assert_eq!(looked.body().len() as u64, BODY_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn pro_03_no_answer_makes_looking_at_it_panic(
            head in proptest::collection::vec(any::<u8>(), 0..200),
            encoding in prop::sample::select(vec!["gzip", "deflate", "br", ""]),
            body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let head = [
                format!("HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\n").as_bytes(),
                &head,
            ]
            .concat();
            let kept = kept(&head, &body);
            let looked = Looked::new(&kept, 200, Duration::ZERO, Duration::ZERO);
            let (mut random, all) = (SplitMix::new(1), CaptureIndex::All);
            for from in [
                CaptureFrom::Json("$..*".to_owned()),
                CaptureFrom::Regex("(\\w+)=".to_owned()),
                CaptureFrom::Header("x".to_owned()),
                CaptureFrom::Cookie("x".to_owned()),
                CaptureFrom::Body,
            ] {
                let capture = CompiledCapture::new(&from).unwrap();
                let _found = capture.extract(&looked, all, &mut random);
            }
        }
    }

    #[test]
    fn a_shuffle_takes_each_row_once() {
        for count in [1, 2, 3, 10, 255, 256, 257, 1_000] {
            let mut seen: Vec<u64> =
                (0..count).map(|index| shuffled(index, count, &mut SplitMix::new(7))).collect();
            let in_order = seen.is_sorted();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..count), "of {count}");
            assert!(!in_order || count < 4, "{count} rows stay in their order");
        }
    }
}
