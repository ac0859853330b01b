//! The cookies: one session, in pieces where it is large, and one for each login that is under way.

use http::HeaderValue;
use pingora::http::RequestHeader;

use super::{config::Cookie, home::Home};
use crate::{
    identity,
    policy::{place, template::cookies},
    reject::Reject,
};

/// Browsers keep cookies of up to 4,096 bytes, with their names.
const MAX_PIECE: usize = 3_800;

/// Larger sessions are not kept: servers do not take so many headers.
const MAX_PIECES: usize = 5;

/// So many logins may be under way in one browser; another one makes it forget the oldest.
const MAX_LOGINS: usize = 6;

/// No more than so many are forgotten at a time, however many a client makes up.
const MAX_FORGOTTEN: usize = 16;

/// How many characters of the name of a login are its time, and the digest of its state.
const TIME: usize = 10;
const DIGEST: usize = 16;

/// How long a login may take, in seconds.
pub(super) const LOGIN_TIME: u64 = 600;

/// What the cookies are called, and where they hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Jar {
    name: Box<str>,
    /// The names of logins begin so.
    login: Box<str>,
    /// What follows every value.
    attributes: Box<str>,
}

impl Jar {
    pub(super) fn new(config: &Cookie, home: &Home) -> Self {
        let prefix = match (home.is_secure(), &config.domain) {
            (true, None) => "__Host-",
            (true, Some(_)) => "__Secure-",
            (false, _) => "",
        };
        let domain = config.domain.as_ref().map(|domain| format!("; Domain={domain}")).unwrap_or_default();
        let secure = if home.is_secure() { "; Secure" } else { "" };
        let name = format!("{prefix}{}", config.name);
        Self {
            login: format!("{name}_login_").into(),
            name: name.into(),
            attributes: format!("; Path=/{domain}{secure}; HttpOnly; SameSite=Lax").into(),
        }
    }

    /// The name of the cookie with the session, or with its first piece.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The name of one piece.
    fn piece(&self, i: usize) -> String {
        if i == 0 { self.name.to_string() } else { format!("{}_{i}", self.name) }
    }

    /// The session as it was put in; `None` also if it is not whole.
    pub(super) fn session(&self, request: &RequestHeader) -> Option<Vec<u8>> {
        let first = only(request, &self.name)?;
        let (count, first) = first.split_at_checked(2)?;
        let [count @ b'1'..=b'9', b'.'] = count else { return None };
        let mut whole = first.to_vec();
        for i in 1..usize::from(count - b'0').min(MAX_PIECES + 1) {
            whole.extend_from_slice(only(request, &self.piece(i))?);
        }
        Some(whole)
    }

    /// Puts a session in; pieces of a larger one before it are taken out. `None` if it is too large.
    pub(super) fn put(&self, session: &str, request: &RequestHeader) -> Option<Vec<HeaderValue>> {
        let count = session.len().div_ceil(MAX_PIECE).max(1);
        if count > MAX_PIECES {
            return None;
        }
        let pieces = session.as_bytes().chunks(MAX_PIECE).enumerate().map(|(i, piece)| {
            let count = if i == 0 { format!("{count}.") } else { String::new() };
            let piece = String::from_utf8_lossy(piece);
            HeaderValue::try_from(format!("{}={count}{piece}{}", self.piece(i), self.attributes)).ok()
        });
        let old = (count..MAX_PIECES).map(|i| self.piece(i)).filter(|name| place::has_cookie(request, name));
        pieces.chain(old.map(|name| self.gone(&name))).collect()
    }

    /// Takes the session out.
    pub(super) fn clear(&self, request: &RequestHeader) -> Vec<HeaderValue> {
        let names = (0..MAX_PIECES).map(|i| self.piece(i)).filter(|name| place::has_cookie(request, name));
        names.filter_map(|name| self.gone(&name)).collect()
    }

    /// A state that nobody can guess. It begins with the time, as does the name of its cookie.
    pub(super) fn state(now: u64) -> String {
        format!("{now:010x}{}", super::login::secret())
    }

    /// The cookie of one login: each has its own, so that several may be under way.
    fn login(&self, state: &str) -> String {
        let digest = hex::encode(identity::digest(state.as_bytes()));
        let time = state.get(..TIME).filter(|time| time.bytes().all(|byte| byte.is_ascii_hexdigit()));
        format!("{}{}{}", self.login, time.unwrap_or_default(), digest.get(..DIGEST).unwrap_or_default())
    }

    /// Puts a login in.
    pub(super) fn put_login(&self, state: &str, sealed: &str, request: &RequestHeader) -> Option<Vec<HeaderValue>> {
        let value = format!("{}={sealed}{}; Max-Age={LOGIN_TIME}", self.login(state), self.attributes);
        let mut all = vec![HeaderValue::try_from(value).ok()?];
        let is_own = |name: &String| {
            let rest = name.strip_prefix(&*self.login);
            rest.is_some_and(|rest| rest.len() == TIME + DIGEST && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        let mut others: Vec<String> = names(request).filter(is_own).collect();
        others.sort_unstable();
        let old = (others.len() + 1).saturating_sub(MAX_LOGINS).min(MAX_FORGOTTEN);
        all.extend(others.iter().take(old).filter_map(|name| self.gone(name)));
        Some(all)
    }

    /// The login that this state belongs to.
    pub(super) fn find_login<'a>(&self, state: &str, request: &'a RequestHeader) -> Option<&'a [u8]> {
        only(request, &self.login(state))
    }

    /// What takes it out.
    pub(super) fn taken(&self, state: &str) -> Option<HeaderValue> {
        self.gone(&self.login(state))
    }

    fn gone(&self, name: &str) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{name}={}; Max-Age=0", self.attributes)).ok()
    }

    /// Takes all of them away from a request, since no upstream needs them.
    pub fn strip(&self, request: &mut RequestHeader) -> Result<(), Reject> {
        let ours = |name: &[u8]| {
            name.strip_prefix(self.name.as_bytes()).is_some_and(|rest| {
                rest.is_empty() || matches!(rest, [b'_', b'0'..=b'9']) || name.starts_with(self.login.as_bytes())
            })
        };
        if names(request).any(|name| ours(name.as_bytes())) {
            place::remove_cookies(request, ours)?;
        }
        Ok(())
    }
}

/// A cookie that is there once.
fn only<'a>(request: &'a RequestHeader, name: &str) -> Option<&'a [u8]> {
    let mut all = cookies(request, name);
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// The names of all cookies that are text.
fn names(request: &RequestHeader) -> impl Iterator<Item = String> {
    let headers = request.headers.get_all(http::header::COOKIE).iter();
    let pairs = headers.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| {
        let name = pair.split(|byte| *byte == b'=').next()?.trim_ascii();
        std::str::from_utf8(name).ok().map(Into::into)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jar() -> Jar {
        let home = Home::new(&"https://app.example.com/cb".parse().unwrap(), None).unwrap();
        Jar::new(&Cookie::default(), &home)
    }

    /// What a browser sends after these.
    fn sent(cookies: &[HeaderValue]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for cookie in cookies {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
            request.append_header("cookie", pair).unwrap();
        }
        request
    }

    #[test]
    fn a_large_session_comes_in_pieces_that_browsers_keep() {
        let (jar, none) = (jar(), sent(&[]));
        for size in [1, MAX_PIECE, MAX_PIECE + 1, MAX_PIECE * MAX_PIECES] {
            let session = "x".repeat(size);
            let put = jar.put(&session, &none).unwrap();
            assert_eq!(put.len(), size.div_ceil(MAX_PIECE));
            assert!(put.iter().all(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().len() <= 4_096));
            assert_eq!(jar.session(&sent(&put)).unwrap(), session.as_bytes());
            if put.len() > 1 {
                assert_eq!(jar.session(&sent(&put[1..])), None);
                assert_eq!(jar.session(&sent(&put[..put.len() - 1])), None);
            }
        }
        assert_eq!(jar.put(&"x".repeat(MAX_PIECE * MAX_PIECES + 1), &none), None);
    }

    #[test]
    fn a_smaller_session_leaves_no_pieces_of_the_one_before() {
        let jar = jar();
        let large = jar.put(&"x".repeat(MAX_PIECE * 2 + 1), &sent(&[])).unwrap();
        let small = jar.put("y", &sent(&large)).unwrap();
        assert_eq!(small[0], "__Host-torana_session=1.y; Path=/; Secure; HttpOnly; SameSite=Lax");
        assert_eq!(small[2], "__Host-torana_session_2=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
        assert_eq!((small.len(), jar.clear(&sent(&large)).len()), (3, 3));
    }

    #[test]
    fn logins_do_not_get_into_each_others_way_and_are_not_many() {
        let jar = jar();
        let mut all = Vec::new();
        let states: Vec<String> =
            (0..MAX_LOGINS).map(|i| Jar::state(2_000_000_000 - u64::try_from(i).unwrap())).collect();
        for state in &states {
            all.extend(jar.put_login(state, state, &sent(&all)).unwrap());
        }
        assert_eq!(all.len(), MAX_LOGINS);
        assert_eq!(jar.find_login(&states[2], &sent(&all)).unwrap(), states[2].as_bytes());
        assert!(jar.find_login("x", &sent(&all)).is_none());
        let more = jar.put_login(&Jar::state(2_000_000_001), "x", &sent(&all)).unwrap();
        let oldest = all.last().unwrap().to_str().unwrap().split('=').next().unwrap();
        assert!(more.len() == 2 && more[1].to_str().unwrap().starts_with(&format!("{oldest}=;")), "{more:?}");
        let mut request = sent(&[]);
        for i in 0..500 {
            request.append_header("cookie", format!("{}{i:026x}=; {}x{i}=", jar.login, jar.login)).unwrap();
        }
        assert_eq!(jar.put_login("a", "a", &request).unwrap().len(), 1 + MAX_FORGOTTEN);
    }

    #[test]
    fn upstreams_see_none_of_them_and_all_others() {
        let jar = jar();
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let own = "__Host-torana_session=1.x; __Host-torana_session_1=y; __Host-torana_session_login_ab=z";
        request.append_header("cookie", format!("a=1; {own}; torana_session=n; __Host-torana_sessions=k")).unwrap();
        jar.strip(&mut request).unwrap();
        assert_eq!(request.headers["cookie"], "a=1; torana_session=n; __Host-torana_sessions=k");
    }
}
