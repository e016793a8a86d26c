//! The table of functions, from which they are checked and documented.

use super::Function;

/// What is known of a value before the test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ty {
    /// Nothing is known.
    Any,
    Null,
    Bool,
    Int,
    /// A number, whole or not.
    Float,
    /// Seconds.
    Duration,
    /// Bytes.
    Bytes,
    Text,
    List,
    Map,
    /// A list, a map or text.
    Sized,
}

impl Ty {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Any => "any value",
            Self::Null => "nothing",
            Self::Bool => "true or false",
            Self::Int => "a whole number",
            Self::Float => "a number",
            Self::Duration => "a duration",
            Self::Bytes => "a size",
            Self::Text => "text",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Sized => "text, a list or a map",
        }
    }

    /// Whether a value of this type may stand where `wanted` does.
    pub(crate) fn fits(self, wanted: Self) -> bool {
        matches!(self, Self::Any)
            || matches!(wanted, Self::Any)
            || self == wanted
            || matches!((self, wanted), (Self::Int, Self::Float))
            || matches!((self, wanted), (Self::Text | Self::List | Self::Map, Self::Sized))
    }

    pub(crate) const fn is_number(self) -> bool {
        matches!(self, Self::Any | Self::Int | Self::Float)
    }
}

/// How a function is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `name(x)`.
    Global,
    /// `x.name()`.
    Method,
    /// Both.
    Either,
}

/// A function as its users see it.
#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    pub(crate) function: Function,
    pub(crate) form: Form,
    /// With the receiver of a method.
    pub(crate) params: &'static [Ty],
    pub(crate) returns: Ty,
    /// Whether it looks at an answer.
    pub(crate) needs_answer: bool,
    /// Whether a call with constants is computed when the file is read.
    pub(crate) is_pure: bool,
    pub(crate) example: &'static str,
    pub(crate) doc: &'static str,
}

const BASE: Signature = Signature {
    name: "",
    function: Function::Uuid,
    form: Form::Global,
    params: &[],
    returns: Ty::Text,
    needs_answer: false,
    is_pure: true,
    example: "",
    doc: "",
};

/// All functions, in the order of the reference.
pub(crate) static SIGNATURES: [Signature; 22] = [
    Signature {
        name: "uuid",
        function: Function::Uuid,
        is_pure: false,
        example: "uuid()",
        doc: "A random UUID (version 4).",
        ..BASE
    },
    Signature {
        name: "random_int",
        function: Function::RandomInt,
        params: &[Ty::Int, Ty::Int],
        returns: Ty::Int,
        is_pure: false,
        example: "random_int(1, 6)",
        doc: "A whole number between two others, both included.",
        ..BASE
    },
    Signature {
        name: "random_string",
        function: Function::RandomString,
        params: &[Ty::Int],
        is_pure: false,
        example: "random_string(8)",
        doc: "So many random letters and digits, at most 65536.",
        ..BASE
    },
    Signature {
        name: "pick",
        function: Function::Pick,
        params: &[Ty::List],
        returns: Ty::Any,
        is_pure: false,
        example: "pick([\"red\", \"blue\"])",
        doc: "Any element of a list.",
        ..BASE
    },
    Signature {
        name: "base64",
        function: Function::Base64,
        params: &[Ty::Any],
        example: "base64(\"user:pass\")",
        doc: "Base64 of text.",
        ..BASE
    },
    Signature {
        name: "hash",
        function: Function::Hash,
        params: &[Ty::Text, Ty::Any],
        example: "hash(\"sha256\", body)",
        doc: "A digest in hexadecimal digits: `sha256`, `sha384` or `sha512`.",
        ..BASE
    },
    Signature {
        name: "hmac",
        function: Function::Hmac,
        params: &[Ty::Text, Ty::Any, Ty::Any],
        example: "hmac(\"sha256\", secrets.KEY, text)",
        doc: "A keyed digest in hexadecimal digits.",
        ..BASE
    },
    Signature {
        name: "url_encode",
        function: Function::UrlEncode,
        params: &[Ty::Any],
        example: "url_encode(\"a b\")",
        doc: "Text as it may stand in a URL.",
        ..BASE
    },
    Signature {
        name: "json_encode",
        function: Function::JsonEncode,
        params: &[Ty::Any],
        example: "json_encode(users)",
        doc: "A value as JSON text.",
        ..BASE
    },
    Signature {
        name: "time_format",
        function: Function::TimeFormat,
        params: &[Ty::Int, Ty::Text],
        example: "time_format(now, \"%Y-%m-%dT%H:%M:%SZ\")",
        doc: "An instant (milliseconds) in UTC: %Y %m %d %H %M %S %L (milliseconds) %s %j %a %b %F %T.",
        ..BASE
    },
    Signature {
        name: "header",
        function: Function::Header,
        params: &[Ty::Text],
        returns: Ty::Any,
        needs_answer: true,
        is_pure: false,
        example: "header(\"content-type\")",
        doc: "The answer's header of that name; `null` without one.",
        ..BASE
    },
    Signature {
        name: "json",
        function: Function::Json,
        params: &[Ty::Text],
        returns: Ty::Any,
        needs_answer: true,
        is_pure: false,
        example: "json(\"$.items[0].id\")",
        doc: "What a JSONPath (RFC 9535) finds in the answer's body: the value or `null`; a list if the path can match several.",
        ..BASE
    },
    Signature {
        name: "size",
        function: Function::Size,
        form: Form::Either,
        params: &[Ty::Sized],
        returns: Ty::Int,
        example: "json(\"$.items\").size()",
        doc: "Elements of a list or map, characters of text; 0 for `null`.",
        ..BASE
    },
    Signature {
        name: "contains",
        function: Function::Contains,
        form: Form::Method,
        params: &[Ty::Text, Ty::Text],
        returns: Ty::Bool,
        example: "body.contains(\"Welcome\")",
        doc: "Whether text holds other text.",
        ..BASE
    },
    Signature {
        name: "startsWith",
        function: Function::StartsWith,
        form: Form::Method,
        params: &[Ty::Text, Ty::Text],
        returns: Ty::Bool,
        example: "body.startsWith(\"<html\")",
        doc: "Whether text begins with other text.",
        ..BASE
    },
    Signature {
        name: "endsWith",
        function: Function::EndsWith,
        form: Form::Method,
        params: &[Ty::Text, Ty::Text],
        returns: Ty::Bool,
        example: "body.endsWith(\"</html>\")",
        doc: "Whether text ends with other text.",
        ..BASE
    },
    Signature {
        name: "matches",
        function: Function::Matches,
        form: Form::Method,
        params: &[Ty::Text, Ty::Text],
        returns: Ty::Bool,
        example: "body.matches(\"id=[0-9]+\")",
        doc: "Whether a regular expression matches anywhere in text.",
        // A result is cheap, but the pattern that it takes to get it is kept.
        is_pure: false,
        ..BASE
    },
    Signature {
        name: "lower",
        function: Function::Lower,
        form: Form::Method,
        params: &[Ty::Text],
        example: "users.name.lower()",
        doc: "Text in lower case.",
        ..BASE
    },
    Signature {
        name: "upper",
        function: Function::Upper,
        form: Form::Method,
        params: &[Ty::Text],
        example: "users.name.upper()",
        doc: "Text in upper case.",
        ..BASE
    },
    Signature {
        name: "int",
        function: Function::Int,
        params: &[Ty::Any],
        returns: Ty::Int,
        example: "int(users.age)",
        doc: "A whole number from a number or text.",
        ..BASE
    },
    Signature {
        name: "double",
        function: Function::Double,
        params: &[Ty::Any],
        returns: Ty::Float,
        example: "double(\"1.5\")",
        doc: "A number from a number or text.",
        ..BASE
    },
    Signature {
        name: "string",
        function: Function::Text,
        params: &[Ty::Any],
        example: "string(vu.id)",
        doc: "A value as text.",
        ..BASE
    },
];

impl Function {
    /// How many arguments it takes, a method's receiver included.
    pub(crate) fn arity(self) -> usize {
        SIGNATURES.iter().find(|s| s.function == self).map_or(0, |s| s.params.len())
    }
}
