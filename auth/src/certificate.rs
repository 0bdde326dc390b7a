//! Who a client's certificate is for: its subject, in one normal form that can be compared with what an administrator wrote.
//!
//! TLS has verified the certificate before it is read here. The normal form is RFC 4514's text: attribute names in capitals,
//! no spaces around them, one way to escape, the parts of a multi-valued RDN in order. Values are compared as they are:
//! `CN=ana` is not `CN=Ana`, since nothing says that an authority would not give out both.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Longer than any subject that an authority gives out.
const MAX_SUBJECT_BYTES: usize = 2048;

/// Names of attributes, the one that is written first; others go by their OID. RFC 4514, chapter 3, and what OpenSSL writes.
const ATTRIBUTES: [(&str, &[&str]); 14] = [
    ("2.5.4.3", &["CN"]),
    ("2.5.4.4", &["SN"]),
    ("2.5.4.5", &["SERIALNUMBER"]),
    ("2.5.4.6", &["C"]),
    ("2.5.4.7", &["L"]),
    ("2.5.4.8", &["ST", "S"]),
    ("2.5.4.9", &["STREET"]),
    ("2.5.4.10", &["O"]),
    ("2.5.4.11", &["OU"]),
    ("2.5.4.12", &["TITLE"]),
    ("2.5.4.42", &["GN", "GIVENNAME"]),
    ("0.9.2342.19200300.100.1.1", &["UID"]),
    ("0.9.2342.19200300.100.1.25", &["DC"]),
    ("1.2.840.113549.1.9.1", &["EMAILADDRESS", "E"]),
];

/// Tags of DER.
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What is looked at in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub subject: CertificateSubject,
    /// TLS asks for it when a connection is made; a connection may live longer.
    pub not_after: SystemTime,
}

/// A subject in normal form. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CertificateSubject(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    #[error("a certificate's subject is written as CN=name,O=organisation,C=country (RFC 4514)")]
    Form,
    #[error("\"{0}\" is no attribute of a certificate's subject; those without a name are written as their OID")]
    Attribute(String),
    #[error("a certificate's subject has at most {MAX_SUBJECT_BYTES} bytes")]
    TooLong,
}

impl ClientCertificate {
    /// `None` where it is no X.509 certificate, or its subject is empty.
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(SEQUENCE)?);
        let mut fields = Der(certificate.expect(SEQUENCE)?);
        let (mut tag, _) = fields.next()?;
        if tag == VERSION {
            tag = fields.next()?.0;
        }
        if tag != INTEGER {
            return None;
        }
        let _signature = fields.expect(SEQUENCE)?;
        let _issuer = fields.expect(SEQUENCE)?;
        let mut validity = Der(fields.expect(SEQUENCE)?);
        let _not_before = validity.next()?;
        let not_after = time(validity.next()?)?;
        let subject = CertificateSubject::from_der(fields.expect(SEQUENCE)?)?;
        Some(Self { subject, not_after })
    }
}

impl CertificateSubject {
    /// Reads what somebody wrote. Spaces around names and values do not count, unless they are escaped.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        if text.len() > MAX_SUBJECT_BYTES {
            return Err(SubjectError::TooLong);
        }
        let (mut names, mut parts, mut rest) = (Vec::new(), Vec::new(), text);
        loop {
            let (attribute, after) = rest.split_once('=').ok_or(SubjectError::Form)?;
            let attribute = attribute_name(attribute.trim_matches(' '))?;
            let (value, end, after) = written_value(after).ok_or(SubjectError::Form)?;
            parts.push((attribute, value));
            rest = after;
            if end != Some('+') {
                names.push(std::mem::take(&mut parts));
            }
            if end.is_none() {
                return Self::of(names).ok_or(SubjectError::Form);
            }
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A certificate has the most significant name first, the text last.
    fn from_der(subject: &[u8]) -> Option<Self> {
        let mut names = Vec::new();
        let mut rest = Der(subject);
        while !rest.0.is_empty() {
            let mut parts = Vec::new();
            let mut set = Der(rest.expect(SET)?);
            while !set.0.is_empty() {
                let mut part = Der(set.expect(SEQUENCE)?);
                let attribute = dotted(part.expect(OID)?)?;
                let name = ATTRIBUTES.iter().find(|(oid, _)| *oid == attribute).map(|(_, names)| names[0].to_owned());
                parts.push((name.unwrap_or(attribute), Value::from_der(part.0)?));
            }
            names.push(parts);
        }
        names.reverse();
        Self::of(names)
    }

    fn of(names: Vec<Vec<(String, Value)>>) -> Option<Self> {
        let written = names.into_iter().map(|parts| {
            let mut parts: Vec<String> = parts.into_iter().map(|(attribute, value)| format!("{attribute}={value}")).collect();
            parts.sort();
            parts.join("+")
        });
        let text = written.collect::<Vec<_>>().join(",");
        (!text.is_empty()).then_some(Self(text))
    }
}

impl fmt::Display for CertificateSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of an attribute.
enum Value {
    Text(String),
    /// What is no text that we read, in DER.
    Other(Vec<u8>),
}

impl Value {
    fn from_der(der: &[u8]) -> Option<Self> {
        let mut rest = Der(der);
        let (tag, content) = rest.next()?;
        if !rest.0.is_empty() {
            return None;
        }
        let text = match tag {
            // UTF8String
            0x0c => Some(str::from_utf8(content).ok()?.to_owned()),
            // NumericString, PrintableString, IA5String and VisibleString
            0x12 | 0x13 | 0x16 | 0x1a if content.is_ascii() => Some(str::from_utf8(content).ok()?.to_owned()),
            // BMPString
            0x1e if content.len().is_multiple_of(2) => {
                let units: Vec<u16> = content.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
                Some(String::from_utf16(&units).ok()?)
            }
            _ => None,
        };
        Some(text.map_or_else(|| Self::Other(der.to_owned()), Self::Text))
    }
}

/// As RFC 4514 escapes, control characters as hexadecimal digits too.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Text(text) => text,
            Self::Other(der) => {
                f.write_char('#')?;
                return der.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
            }
        };
        let last = text.len().saturating_sub(1);
        for (at, c) in text.char_indices() {
            match c {
                '"' | '+' | ',' | ';' | '<' | '>' | '\\' => write!(f, "\\{c}")?,
                '#' if at == 0 => f.write_str("\\#")?,
                ' ' if at == 0 || at == last => f.write_str("\\ ")?,
                c if c.is_ascii_control() => write!(f, "\\{:02x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn attribute_name(written: &str) -> Result<String, SubjectError> {
    let capitals = written.to_ascii_uppercase();
    let known = ATTRIBUTES.iter().find(|(oid, names)| *oid == written || names.contains(&capitals.as_str()));
    if let Some((_, names)) = known {
        return Ok(names[0].to_owned());
    }
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    if written.contains('.') && written.split('.').all(number) {
        return Ok(written.to_owned());
    }
    let is_name = !written.is_empty() && written.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    Err(if is_name { SubjectError::Attribute(written.to_owned()) } else { SubjectError::Form })
}

/// The value at the beginning of a text, the sign that ended it, and what follows that.
fn written_value(text: &str) -> Option<(Value, Option<char>, &str)> {
    let text = text.trim_start_matches(' ');
    let (mut bytes, mut kept) = (Vec::new(), 0);
    let mut chars = text.char_indices();
    let (mut end, mut after) = (None, "");
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                let (_, first) = chars.next()?;
                if let Some(high) = first.to_digit(16) {
                    let (_, second) = chars.next()?;
                    bytes.push(u8::try_from(high * 16 + second.to_digit(16)?).ok()?);
                } else if " \"#+,;<=>\\".contains(first) {
                    bytes.push(u8::try_from(first).ok()?);
                } else {
                    return None;
                }
                kept = bytes.len();
            }
            ',' | '+' => {
                (end, after) = (Some(c), &text[at + 1..]);
                break;
            }
            '"' | ';' | '<' | '>' | '\0' => return None,
            ' ' => bytes.push(b' '),
            c => {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                kept = bytes.len();
            }
        }
    }
    bytes.truncate(kept);
    let value = String::from_utf8(bytes).ok().filter(|value| !value.is_empty())?;
    let value = match value.strip_prefix('#').filter(|_| text.starts_with('#')) {
        Some(digits) => Value::from_der(&hexadecimal(digits)?)?,
        None => Value::Text(value),
    };
    Some((value, end, after))
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = digits.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}

/// What is left to read of some DER: one tag, length and content after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags of several bytes do not occur in what is read here.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }
}

/// An object identifier with dots.
fn dotted(oid: &[u8]) -> Option<String> {
    let (mut numbers, mut number): (Vec<u64>, u64) = (Vec::new(), 0);
    for byte in oid {
        number = number.checked_mul(128)? + u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let root = (number / 40).min(2);
                numbers.push(root);
                number -= root * 40;
            }
            numbers.push(std::mem::take(&mut number));
        }
    }
    let ended = oid.last().is_some_and(|byte| byte & 0x80 == 0);
    ended.then(|| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
}

/// `YYMMDDhhmmssZ`, of the years 1950 to 2049, or `YYYYMMDDhhmmssZ` (RFC 5280, 4.1.2.5).
fn time((tag, text): (u8, &[u8])) -> Option<SystemTime> {
    let text = str::from_utf8(text).ok()?.strip_suffix('Z').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970-01-01, the year counted from March: https://howardhinnant.github.io/date_algorithms.html
    let (from_march, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (from_march.div_euclid(400), from_march.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::clock::unix_s;

    /// `openssl req -x509 … -days 36500 -utf8 -subj "/C=PT/O=Hospital de São João, Lda/OU=data+UID=7/CN= #etl "`
    const LONG: &str = "\
        MIICHjCCAcWgAwIBAgIUOtcxSX35SG7dnrtoXUvvAtpO/egwCgYIKoZIzj0EAwIwZDELMAkGA1UEBhMCUFQxJDAiBgNVBAoMG0hvc3BpdGFsIGRlIFPDo28gSm/Do28s\
        IExkYTEeMAsGA1UECwwEZGF0YTAPBgoJkiaJk/IsZAEBDAE3MQ8wDQYDVQQDDAYgI2V0bCAwIBcNMjYxMTI5MTExNzQ2WhgPMjEyNjExMDUxMTE3NDZaMGQxCzAJBgNV\
        BAYTAlBUMSQwIgYDVQQKDBtIb3NwaXRhbCBkZSBTw6NvIEpvw6NvLCBMZGExHjALBgNVBAsMBGRhdGEwDwYKCZImiZPyLGQBAQwBNzEPMA0GA1UEAwwGICNldGwgMFkw\
        EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEsH7/fDLir1Fo+4CCvLciM5tXQXXnAO5X65NsMyK+tTkdMU2T7nnkHFH5cQ0ZhE5S14ULOZdfvT88+/71wu7ifaNTMFEwHQYD\
        VR0OBBYEFDjNZ8S7crlWA44yTMUTTP5q1Kl2MB8GA1UdIwQYMBaAFDjNZ8S7crlWA44yTMUTTP5q1Kl2MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIg\
        W4KpASRdP3APDl7WuijJe1mDPNHPrzf9dqHzvhHcpAMCIEtdKPRNf3UgEGnZdGA6mOr9NI720ElibkLTNep2/pLZ";
    /// `openssl req -x509 … -days 30 -subj /CN=short`
    const SHORT: &str = "\
        MIIBdDCCARugAwIBAgIUZRQcwOnUjEs+sL4hPXCAJgFABdswCgYIKoZIzj0EAwIwEDEOMAwGA1UEAwwFc2hvcnQwHhcNMjYxMTI5MTExNzQ2WhcNMjYxMjI5MTExNzQ2\
        WjAQMQ4wDAYDVQQDDAVzaG9ydDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABBvRPk1RfFsF5m0/G81/KtrmdgpkmMC6vRswkaOkA/519zncOJ1A8KDzfGnq8L4P1yF4\
        DQEa4Se6MD4soS0PV0+jUzBRMB0GA1UdDgQWBBT53fFGLzpELJc5SAug79wUl2yIUjAfBgNVHSMEGDAWgBT53fFGLzpELJc5SAug79wUl2yIUjAPBgNVHRMBAf8EBTAD\
        AQH/MAoGCCqGSM49BAMCA0cAMEQCIF2gzlchH3UY4OAdbAF5Ex65iEQzSB2bCiM+gq3oFOfpAiBKZb9VKiU1zIfAcKtRn7tdHoL7fPl0ZMBaWQrhJ+KiQg==";

    fn der(base64: &str) -> Vec<u8> {
        STANDARD.decode(base64).unwrap()
    }

    fn normal(text: &str) -> String {
        CertificateSubject::parse(text).map_or_else(|error| error.to_string(), |subject| subject.to_string())
    }

    #[test]
    fn a_certificate_is_read_as_openssl_reads_it() {
        let long = ClientCertificate::read(&der(LONG)).unwrap();
        assert_eq!(long.subject.as_str(), r"CN=\ #etl\ ,OU=data+UID=7,O=Hospital de São João\, Lda,C=PT");
        assert_eq!(unix_s(long.not_after), 4_949_551_066);
        // As `openssl x509 -noout -subject -nameopt RFC2253` prints it.
        let printed = r"CN=\ #etl\ ,UID=7+OU=data,O=Hospital de S\C3\A3o Jo\C3\A3o\, Lda,C=PT";
        assert_eq!(CertificateSubject::parse(printed), Ok(long.subject));
        let short = ClientCertificate::read(&der(SHORT)).unwrap();
        assert_eq!((short.subject.as_str(), unix_s(short.not_after)), ("CN=short", 1_798_543_066));
    }

    #[test]
    fn what_is_cut_or_changed_is_read_as_something_or_not_at_all() {
        let whole = der(LONG);
        for length in 0..whole.len() {
            assert_eq!(ClientCertificate::read(&whole[..length]), None, "{length} bytes");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let _ = ClientCertificate::read(&changed);
            }
        }
    }

    #[test]
    fn one_subject_has_one_form() {
        for (text, expected) in [
            ("CN=etl,O=Hospital,C=PT", "CN=etl,O=Hospital,C=PT"),
            ("cn = etl , o=Hospital,  c = PT ", "CN=etl,O=Hospital,C=PT"),
            ("2.5.4.3=etl", "CN=etl"),
            ("emailAddress=a@b.pt", "EMAILADDRESS=a@b.pt"),
            ("E=a@b.pt", "EMAILADDRESS=a@b.pt"),
            ("UID=7+OU=data", "OU=data+UID=7"),
            (r"CN=a\2Cb", r"CN=a\,b"),
            (r"CN=\20a\20", r"CN=\ a\ "),
            (r"CN=a\00b", r"CN=a\00b"),
            (r"CN=a=b", "CN=a=b"),
            (r"CN=a\=b", "CN=a=b"),
            ("CN=#0c0365746c", "CN=etl"),
            ("CN=#0403010203", "CN=#0403010203"),
            (r"CN=\#0c0365746c", r"CN=\#0c0365746c"),
            ("1.2.3.4=x", "1.2.3.4=x"),
            ("CN=Etl", "CN=Etl"),
        ] {
            assert_eq!(normal(text), expected, "{text}");
            assert_eq!(normal(expected), expected, "{text}, again");
        }
    }

    #[test]
    fn what_is_no_subject_is_refused() {
        let form = SubjectError::Form.to_string();
        for text in [
            "",
            " ",
            "etl",
            "=etl",
            "CN=",
            "CN= ",
            "CN=etl,",
            ",CN=etl",
            "CN=etl+",
            "CN=a,,O=b",
            "CN=\"etl\"",
            "CN=a;O=b",
            "CN=a<b",
            r"CN=a\",
            r"CN=a\g",
            r"CN=a\2",
            r"CN=\FF",
            "CN=#",
            "CN=#0",
            "CN=#0c05",
            "CN=#zz",
            "/C=PT/CN=etl",
        ] {
            assert_eq!(normal(text), form, "{text}");
        }
        assert!(normal("KN=etl").starts_with("\"KN\" is no attribute"));
        assert!(normal("1.02=etl").starts_with("\"1.02\" is no attribute"));
        assert_eq!(normal(&format!("CN={}", "x".repeat(MAX_SUBJECT_BYTES))), SubjectError::TooLong.to_string());
    }
}
