//! Credentials of every kind against the whole authenticator: what is let in, and why the rest is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use aws_lc_rs::rsa::KeySize;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::*;
use crate::clock::unix_s;
use crate::password;
use crate::testing::{AUDIENCE, Answer, ISSUER, KeyServer, Signer, Users, merged};

const MINUTE: Duration = Duration::from_secs(60);
const LIFETIME: Duration = Duration::from_secs(3600);

fn config(name: &str) -> IssuerConfig {
    IssuerConfig {
        name: name.to_owned(),
        issuer: ISSUER.to_owned(),
        audience: vec![AUDIENCE.to_owned()],
        jwks_url: None,
        jwks_file: None,
        public_key_file: None,
        algorithms: vec!["RS256".to_owned(), "ES256".to_owned()],
        subject_claim: "sub".to_owned(),
        groups_claim: "groups".to_owned(),
        leeway_s: 5,
    }
}

fn start(issuers: Vec<IssuerConfig>, users: Arc<Users>) -> Result<Authenticator, AuthenticatorError> {
    let token_key = TokenKey::generate().unwrap();
    Authenticator::new(AuthenticatorConfig { issuers, token_key, token_lifetime: LIFETIME }, users)
}

fn with(issuer: IssuerConfig) -> Authenticator {
    start(vec![issuer], Arc::default()).unwrap()
}

fn with_url(server: &KeyServer) -> Authenticator {
    with(IssuerConfig { jwks_url: Some(server.url.clone()), ..config("hospital") })
}

/// Good claims at `now`, with `patch` laid over them (null takes a claim away).
fn claims(now: Moment, patch: Value) -> Value {
    let now_s = unix_s(now.wall);
    let good = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ana", "exp": now_s + 300, "iat": now_s, "jti": "t1",
        "groups": ["analysts", "night"], "scope": "openid", "region": "64",
    });
    merged(good, &patch)
}

async fn bearer(authenticator: &Authenticator, token: &str, now: Moment) -> Result<String, String> {
    let result = match Credential::from_header(&format!("Bearer {token}")) {
        Ok(credential) => authenticator.authenticate_at(&credential, None, now).await,
        Err(error) => Err(error),
    };
    result.map(|principal| principal.name.to_string()).map_err(|error| error.reason())
}

fn ana() -> Result<String, String> {
    Ok("hospital:ana".to_owned())
}

fn refused(reason: Reason) -> Result<String, String> {
    Err(reason.to_string())
}

fn missing(claim: &str) -> Result<String, String> {
    refused(Reason::Claim(claim.to_owned()))
}

#[tokio::test]
async fn a_token_becomes_a_principal() {
    let (signer, now) = (Signer::ec(), Moment::now());
    let server = KeyServer::start(&[signer.jwk("k1")]).await;
    let authenticator = with_url(&server);
    let token = signer.sign("k1", &json!({}), &claims(now, json!({})));
    let credential = Credential::from_header(&format!("bearer {token}")).unwrap();
    let principal = authenticator.authenticate(&credential, Some([10, 0, 0, 1].into())).await.unwrap();
    assert_eq!(principal.name.to_string(), "hospital:ana");
    assert_eq!(principal.credential, CredentialKind::ForeignToken);
    assert_eq!(principal.groups.iter().map(ToString::to_string).collect::<Vec<_>>(), ["hospital:analysts", "hospital:night"]);
    assert_eq!(principal.claim("region").as_deref(), Some("64"));
    assert_eq!(principal.token_id.as_deref(), Some("t1"));
    assert_eq!(principal.expires_at.map(unix_s), Some(unix_s(now.wall) + 305));
    assert_eq!(authenticator.issue(&principal).unwrap_err().reason(), Reason::NotExchangeable.to_string());
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn claims_are_all_checked() {
    let (signer, now) = (Signer::ec(), Moment::now());
    let server = KeyServer::start(&[signer.jwk("k1")]).await;
    let authenticator = with_url(&server);
    let now_s = unix_s(now.wall);
    let cases = [
        (json!({}), ana()),
        (json!({"aud": ["account", AUDIENCE]}), ana()),
        (json!({"aud": "account"}), refused(Reason::Audience)),
        (json!({"aud": ["account"]}), refused(Reason::Audience)),
        (json!({"aud": []}), refused(Reason::Audience)),
        (json!({"aud": null}), missing("aud")),
        (json!({"aud": {"a": AUDIENCE}}), missing("aud")),
        (json!({"iss": null}), missing("iss")),
        (json!({"iss": 7}), missing("iss")),
        (json!({"iss": "https://evil.example.org"}), refused(Reason::UnknownIssuer)),
        (json!({"iss": format!("{ISSUER}/")}), refused(Reason::UnknownIssuer)),
        (json!({"iss": OWN_ISSUER}), refused(Reason::Algorithm)),
        (json!({"sub": null}), missing("sub")),
        (json!({"sub": ""}), missing("sub")),
        (json!({"sub": 7}), missing("sub")),
        (json!({"sub": "a\u{0}b"}), missing("sub")),
        (json!({"sub": "s".repeat(2000)}), missing("sub")),
        (json!({"exp": null}), missing("exp")),
        (json!({"exp": "soon"}), missing("exp")),
        (json!({"exp": -1}), missing("exp")),
        (json!({"exp": now_s - 4}), ana()),
        (json!({"exp": now_s - 6}), refused(Reason::Expired)),
        (json!({"exp": (now_s + 60) as f64 + 0.5}), ana()),
        (json!({"nbf": now_s + 4}), ana()),
        (json!({"nbf": now_s + 6}), refused(Reason::NotYetValid)),
        (json!({"iat": now_s + 60}), ana()),
        (json!({"nbf": now_s + 60}), refused(Reason::NotYetValid)),
        (json!({"nbf": "now"}), missing("nbf")),
        (json!({"typ": "Bearer"}), ana()),
        (json!({"typ": "ID"}), refused(Reason::IdToken)),
        (json!({"typ": "Refresh"}), refused(Reason::TokenType)),
        (json!({"nonce": "n", "scope": null}), refused(Reason::IdToken)),
        (json!({"nonce": "n"}), ana()),
        (json!({"at_hash": "h"}), refused(Reason::IdToken)),
        (json!({"groups": null}), ana()),
        (json!({"groups": "analysts"}), ana()),
        (json!({"groups": [1]}), missing("groups")),
        (json!({"groups": {"a": 1}}), missing("groups")),
        (json!({"groups": null, "_claim_names": {"groups": "src1"}}), missing("groups")),
        (json!({"deep": (0..20).fold(json!(1), |inner, _| json!([inner]))}), refused(Reason::Malformed("nested too deeply"))),
        (json!({"long": "x".repeat(20_000)}), refused(Reason::TooLong("token"))),
    ];
    for (patch, expected) in cases {
        let token = signer.sign("k1", &json!({}), &claims(now, patch.clone()));
        assert_eq!(bearer(&authenticator, &token, now).await, expected, "{patch:.80}");
    }
}

#[tokio::test]
async fn headers_choose_nothing_but_a_configured_key() {
    let (signer, other, rsa, now) = (Signer::ec(), Signer::ec(), Signer::rsa(KeySize::Rsa2048), Moment::now());
    let server = KeyServer::start(&[signer.jwk("k1"), rsa.jwk("r1")]).await;
    let evil = KeyServer::start(&[other.jwk("k1")]).await;
    let authenticator = with_url(&server);
    let good = claims(now, json!({}));
    let sign = |signer: &Signer, kid: &str, header: Value| signer.sign(kid, &header, &good);
    let none =
        |alg: &str| format!("{}.{}.", URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string()), URL_SAFE_NO_PAD.encode(good.to_string()));
    let secret = |key: &[u8]| Signer { algorithm: Algorithm::HS256, private: EncodingKey::from_secret(key), public_pem: String::new() };
    let rsa_n = URL_SAFE_NO_PAD.decode(rsa.jwk("r1")["n"].as_str().unwrap()).unwrap();
    let tampered = {
        let token = sign(&signer, "k1", json!({}));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims(now, json!({"sub": "admin"})).to_string()))
    };
    let cases = [
        ("ES256", sign(&signer, "k1", json!({})), ana()),
        ("RS256", sign(&rsa, "r1", json!({})), ana()),
        ("no typ", sign(&signer, "k1", json!({"typ": null})), ana()),
        ("typ at+jwt", sign(&signer, "k1", json!({"typ": "AT+JWT"})), ana()),
        ("typ application/at+jwt", sign(&signer, "k1", json!({"typ": "application/at+jwt"})), ana()),
        ("typ logout+jwt", sign(&signer, "k1", json!({"typ": "logout+jwt"})), refused(Reason::TokenType)),
        ("typ dpop+jwt", sign(&signer, "k1", json!({"typ": "dpop+jwt"})), refused(Reason::TokenType)),
        ("alg none", none("none"), refused(Reason::Algorithm)),
        ("alg None", none("None"), refused(Reason::Algorithm)),
        ("alg empty", none(""), refused(Reason::Algorithm)),
        ("ES256 without a signature", none("ES256"), refused(Reason::Signature)),
        ("HS256 with the PEM", sign(&secret(rsa.public_pem.as_bytes()), "r1", json!({})), refused(Reason::Algorithm)),
        ("HS256 with the modulus", sign(&secret(&rsa_n), "r1", json!({})), refused(Reason::Algorithm)),
        ("RS512, which is not configured", sign(&rsa, "r1", json!({"alg": "RS512"})), refused(Reason::Algorithm)),
        ("RS256 for an EC key", sign(&rsa, "k1", json!({})), refused(Reason::Algorithm)),
        ("ES256 for an RSA key", sign(&signer, "r1", json!({})), refused(Reason::Algorithm)),
        ("somebody else's key", sign(&other, "k1", json!({})), refused(Reason::Signature)),
        ("tampered", tampered, refused(Reason::Signature)),
        ("unknown kid", sign(&signer, "k2", json!({})), refused(Reason::UnknownKey)),
        ("no kid, one key fits", sign(&signer, "", json!({"kid": null})), ana()),
        ("jku", sign(&other, "k1", json!({"jku": evil.url})), refused(Reason::Signature)),
        ("x5u", sign(&other, "k1", json!({"x5u": evil.url})), refused(Reason::Signature)),
        ("jwk", sign(&other, "k1", json!({"jwk": other.jwk("k1")})), refused(Reason::Signature)),
        ("jku on a good token", sign(&signer, "k1", json!({"jku": evil.url, "x5c": ["AA"]})), ana()),
        ("crit", sign(&signer, "k1", json!({"crit": ["exp"]})), refused(Reason::Critical)),
        ("crit of the wrong type", sign(&signer, "k1", json!({"crit": "b64", "b64": false})), refused(Reason::Critical)),
        ("two parts", "a.b".to_owned(), refused(Reason::Malformed("not three parts"))),
        ("four parts", format!("{}.x", sign(&signer, "k1", json!({}))), refused(Reason::Malformed("not three parts"))),
        ("padded base64", "e30=.e30=.".to_owned(), refused(Reason::Malformed("base64"))),
        ("no header", ".e30.".to_owned(), refused(Reason::Malformed("header"))),
        ("claims that are a list", signer.sign_text(r#"{"alg":"ES256"}"#, "[]"), refused(Reason::Malformed("claims"))),
        ("alg twice", signer.sign_text(r#"{"alg":"none","alg":"ES256"}"#, "{}"), refused(Reason::Malformed("header"))),
        (
            "deep header",
            signer.sign_text(&format!("{{\"alg\":\"ES256\",\"a\":{}", "[".repeat(50)), "{}"),
            refused(Reason::Malformed("nested too deeply")),
        ),
    ];
    for (what, token, expected) in cases {
        assert_eq!(bearer(&authenticator, &token, now).await, expected, "{what}");
    }
    assert_eq!(evil.asked(), 0);
}

#[tokio::test]
async fn unfit_keys_of_a_set_are_left_out() {
    let (signer, now) = (Signer::ec(), Moment::now());
    let (jwk, good) = (signer.jwk("k1"), claims(now, json!({})));
    let rsa = Signer::rsa(KeySize::Rsa2048);
    let unfit = [
        json!({"use": "enc"}),
        json!({"use": null, "key_ops": ["encrypt"]}),
        json!({"alg": "ES384"}),
        json!({"alg": "ECDH-ES"}),
        json!({"crv": "P-384"}),
        json!({"crv": "secp256k1"}),
        json!({"x": "AAAA"}),
        json!({"kty": "oct", "k": "AAAA"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": 7}),
    ];
    for patch in unfit {
        // A good key stands beside it, so that the set is not empty.
        let server = KeyServer::start(&[merged(jwk.clone(), &patch), rsa.jwk("r1")]).await;
        let token = signer.sign("k1", &json!({}), &good);
        assert_eq!(bearer(&with_url(&server), &token, now).await, refused(Reason::UnknownKey), "{patch}");
    }
    let server = KeyServer::start(&[merged(jwk, &json!({"use": null, "alg": null, "key_ops": ["verify"]}))]).await;
    assert_eq!(bearer(&with_url(&server), &signer.sign("k1", &json!({}), &good), now).await, ana());
    let server = KeyServer::start(&[signer.jwk("k1"), Signer::ec().jwk("k2")]).await;
    let without_kid = signer.sign("", &json!({"kid": null}), &good);
    assert_eq!(bearer(&with_url(&server), &without_kid, now).await, refused(Reason::AmbiguousKey));
}

#[tokio::test]
async fn one_key_does_not_serve_two_paddings() {
    let now = Moment::now();
    let mut rsa = Signer::rsa(KeySize::Rsa2048);
    let (declared, free) = (rsa.jwk("declared"), merged(rsa.jwk("free"), &json!({"alg": null})));
    assert_eq!(declared["alg"], "RS256");
    let server = KeyServer::start(&[declared, free]).await;
    let algorithms = vec!["RS256".to_owned(), "PS256".to_owned()];
    let authenticator = with(IssuerConfig { jwks_url: Some(server.url.clone()), algorithms, ..config("hospital") });
    let good = claims(now, json!({}));
    let by_rs = [rsa.sign("declared", &json!({}), &good), rsa.sign("free", &json!({"alg": "PS256"}), &good)];
    rsa.algorithm = Algorithm::PS256;
    let by_ps = ["declared", "free"].map(|kid| rsa.sign(kid, &json!({}), &good));
    let says_rs = rsa.sign("free", &json!({"alg": "RS256"}), &good);
    let cases = [
        ("RS256 as declared", &by_rs[0], ana()),
        ("RS256 that says PS256", &by_rs[1], refused(Reason::Signature)),
        ("PS256, and the key says RS256", &by_ps[0], refused(Reason::Algorithm)),
        ("PS256, and the key says nothing", &by_ps[1], ana()),
        ("PS256 that says RS256", &says_rs, refused(Reason::Signature)),
    ];
    for (what, token, expected) in cases {
        assert_eq!(bearer(&authenticator, token, now).await, expected, "{what}");
    }
}

#[tokio::test]
async fn keys_rotate_and_withdrawn_keys_stop_working() {
    let (old, new, now) = (Signer::ec(), Signer::ec(), Moment::now());
    let server = KeyServer::start(&[old.jwk("old")]).await;
    let authenticator = with_url(&server);
    let good = claims(now, json!({"exp": unix_s(now.wall) + 10_000}));
    let (by_old, by_new) = (old.sign("old", &json!({}), &good), new.sign("new", &json!({}), &good));
    assert_eq!(bearer(&authenticator, &by_old, now).await, ana());

    server.publish(&[old.jwk("old"), new.jwk("new")]);
    assert_eq!(bearer(&authenticator, &by_new, now.after(MINUTE / 3)).await, refused(Reason::UnknownKey), "within the interval");
    assert_eq!(bearer(&authenticator, &by_new, now.after(MINUTE)).await, ana());
    assert_eq!(bearer(&authenticator, &by_old, now.after(MINUTE)).await, ana());
    assert_eq!(server.asked(), 2);

    server.publish(&[new.jwk("new")]);
    assert_eq!(bearer(&authenticator, &by_old, now.after(2 * MINUTE)).await, ana(), "nobody knows yet");
    let later = now.after(30 * MINUTE);
    assert_eq!(bearer(&authenticator, &by_old, later).await, refused(Reason::UnknownKey), "the token was verified before, its key is gone");
    assert_eq!(bearer(&authenticator, &by_new, later).await, ana());
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn old_keys_are_refreshed_while_they_are_used() {
    let (signer, now) = (Signer::ec(), Moment::now());
    let server = KeyServer::start(&[signer.jwk("k1")]).await;
    let authenticator = with_url(&server);
    let token = signer.sign("k1", &json!({}), &claims(now, json!({"exp": unix_s(now.wall) + 10_000})));
    assert_eq!(bearer(&authenticator, &token, now).await, ana());
    server.publish(&[]);
    let later = now.after(6 * MINUTE);
    assert_eq!(bearer(&authenticator, &token, later).await, ana(), "the fetch goes on beside the call");
    while bearer(&authenticator, &token, later).await == ana() {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.asked(), 2);
    assert_eq!(bearer(&authenticator, &token, later).await, refused(Reason::UnknownKey));
}

#[tokio::test]
async fn the_last_good_keys_survive_an_outage() {
    let (signer, now) = (Signer::ec(), Moment::now());
    let server = KeyServer::start(&[signer.jwk("k1")]).await;
    let authenticator = with_url(&server);
    let sign = |n: u64| signer.sign("k1", &json!({}), &claims(now.after(Duration::from_secs(n)), json!({})));
    assert_eq!(bearer(&authenticator, &sign(0), now).await, ana());
    let outages = [
        Answer::Status(500),
        Answer::Nothing,
        Answer::Body("<html>".to_owned()),
        Answer::Body("{}".to_owned()),
        Answer::Body(format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300_000))),
        Answer::Body(json!({"keys": vec![json!({"kty": "EC"}); 101]}).to_string()),
        Answer::Redirect("http://127.0.0.1:9/certs".to_owned()),
        Answer::Redirect("http://localhost/certs".to_owned()),
        Answer::Redirect("/again".to_owned()),
    ];
    for (n, answer) in (1..).zip(outages) {
        let asked = server.asked();
        server.answer(answer);
        let later = n * 20 * 60;
        assert_eq!(bearer(&authenticator, &sign(later), now.after(Duration::from_secs(later))).await, ana(), "outage {n}");
        assert!(server.asked() > asked);
    }
}

#[tokio::test]
async fn keys_that_never_came_refuse_and_are_asked_for_again() {
    let (signer, now) = (Signer::ec(), Moment::now());
    let server = KeyServer::start(&[signer.jwk("k1")]).await;
    server.answer(Answer::Status(503));
    let authenticator = with_url(&server);
    let token = signer.sign("k1", &json!({}), &claims(now, json!({})));
    for _ in 0..20 {
        assert_eq!(bearer(&authenticator, &token, now).await, refused(Reason::NoKeys));
    }
    assert_eq!(server.asked(), 1);
    server.publish(&[signer.jwk("k1")]);
    assert_eq!(bearer(&authenticator, &token, now.after(Duration::from_secs(2))).await, ana());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_unknown_keys_fetches_once_an_interval() {
    let (signer, now) = (Signer::ec(), Moment::now());
    let server = KeyServer::start(&[signer.jwk("k1")]).await;
    let authenticator = Arc::new(with_url(&server));
    let good = claims(now, json!({}));
    assert_eq!(bearer(&authenticator, &signer.sign("k1", &json!({}), &good), now).await, ana());
    for (minutes, expected) in [(1, 2), (2, 3)] {
        let later = now.after(minutes * MINUTE);
        let storm: Vec<_> = (0..200)
            .map(|n| {
                let token = signer.sign(&format!("made-up-{n}"), &json!({}), &good);
                let authenticator = Arc::clone(&authenticator);
                tokio::spawn(async move { bearer(&authenticator, &token, later).await })
            })
            .collect();
        for call in storm {
            assert_eq!(call.await.unwrap(), refused(Reason::UnknownKey));
        }
        assert_eq!(server.asked(), expected);
    }
}

#[tokio::test]
async fn a_verified_token_is_remembered_until_it_expires() {
    let (signer, now) = (Signer::rsa(KeySize::Rsa2048), Moment::now());
    let server = KeyServer::start(&[signer.jwk("k1")]).await;
    let authenticator = with_url(&server);
    let token = signer.sign("k1", &json!({}), &claims(now, json!({})));
    assert_eq!(bearer(&authenticator, &token, now).await, ana());
    let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let known = authenticator.verified.get(&key).unwrap();
    assert_eq!(bearer(&authenticator, &token, now.after(2 * MINUTE)).await, ana());
    assert!(Arc::ptr_eq(&known, &authenticator.verified.get(&key).unwrap()), "it was not verified again");
    assert_eq!(bearer(&authenticator, &token, now.after(Duration::from_secs(304))).await, ana());
    assert_eq!(bearer(&authenticator, &token, now.after(Duration::from_secs(306))).await, refused(Reason::Expired));
    assert!(authenticator.verified.get(&key).is_none());
    // A byte more is another token.
    assert_eq!(bearer(&authenticator, &format!("{token}A"), now).await, refused(Reason::Signature));
}

#[tokio::test]
async fn keys_come_from_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let now = Moment::now();
    for (n, signer) in [Signer::rsa(KeySize::Rsa2048), Signer::ec(), Signer::ed()].into_iter().enumerate() {
        let pem = folder.path().join(format!("{n}.pem"));
        std::fs::write(&pem, &signer.public_pem).unwrap();
        let algorithms = vec!["RS256".to_owned(), "ES256".to_owned(), "EdDSA".to_owned()];
        let authenticator = with(IssuerConfig { public_key_file: Some(pem), algorithms, ..config("hospital") });
        let token = signer.sign("any", &json!({}), &claims(now, json!({})));
        assert_eq!(bearer(&authenticator, &token, now).await, ana());
        let forged = Signer { public_pem: String::new(), ..Signer::ec() }.sign("any", &json!({}), &claims(now, json!({})));
        assert!(bearer(&authenticator, &forged, now).await.is_err());
    }

    let (old, new) = (Signer::ec(), Signer::ec());
    let jwks = folder.path().join("jwks.json");
    std::fs::write(&jwks, json!({"keys": [old.jwk("old")]}).to_string()).unwrap();
    let authenticator = with(IssuerConfig { jwks_file: Some(jwks.clone()), ..config("hospital") });
    let by = |signer: &Signer, kid: &str| signer.sign(kid, &json!({}), &claims(now, json!({})));
    assert_eq!(bearer(&authenticator, &by(&old, "old"), now).await, ana());
    std::fs::write(&jwks, json!({"keys": [new.jwk("new")]}).to_string()).unwrap();
    assert_eq!(bearer(&authenticator, &by(&new, "new"), now.after(MINUTE)).await, ana());
    assert_eq!(bearer(&authenticator, &by(&old, "old"), now.after(MINUTE)).await, refused(Reason::UnknownKey));
}

#[tokio::test]
async fn several_issuers_keep_to_themselves() {
    let (north, south, now) = (Signer::ec(), Signer::ec(), Moment::now());
    let (north_server, south_server) = (KeyServer::start(&[north.jwk("k")]).await, KeyServer::start(&[south.jwk("k")]).await);
    let issuer = |name: &str, server: &KeyServer| IssuerConfig {
        issuer: format!("https://{name}.example.org"),
        jwks_url: Some(server.url.clone()),
        ..config(name)
    };
    let users = Arc::new(Users::default());
    let authenticator = start(vec![issuer("north", &north_server), issuer("south", &south_server)], users).unwrap();
    let from =
        |signer: &Signer, name: &str| signer.sign("k", &json!({}), &claims(now, json!({"iss": format!("https://{name}.example.org")})));
    assert_eq!(bearer(&authenticator, &from(&north, "north"), now).await, Ok("north:ana".to_owned()));
    assert_eq!(bearer(&authenticator, &from(&south, "south"), now).await, Ok("south:ana".to_owned()));
    assert_eq!(bearer(&authenticator, &from(&south, "north"), now).await, refused(Reason::Signature));
    assert_eq!(authenticator.issuer_names().collect::<Vec<_>>(), ["north", "south"]);

    // A group of the same name is another group, and an outage of one is none of the other.
    let credential = Credential::Bearer(from(&south, "south"));
    let principal = authenticator.authenticate_at(&credential, None, now).await.unwrap();
    assert!(principal.is_member("south:analysts") && !principal.is_member("north:analysts"));
    north_server.answer(Answer::Nothing);
    let later = now.after(20 * MINUTE);
    let patch = json!({"iss": "https://south.example.org", "exp": unix_s(later.wall) + 60});
    assert_eq!(bearer(&authenticator, &south.sign("k", &json!({}), &claims(now, patch)), later).await, Ok("south:ana".to_owned()));
    assert_eq!((north_server.asked(), south_server.asked()), (1, 2));
}

#[tokio::test]
async fn one_fetch_is_in_flight_however_many_wait_for_it() {
    let (signer, now) = (Signer::ec(), Moment::now());
    let server = KeyServer::start(&[signer.jwk("k1")]).await;
    let authenticator = Arc::new(with_url(&server));
    let release = server.hold();
    let token = signer.sign("k1", &json!({}), &claims(now, json!({})));
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let (authenticator, token) = (Arc::clone(&authenticator), token.clone());
            // Past every interval: what keeps the second fetch away is the first.
            tokio::spawn(async move { bearer(&authenticator, &token, now.after(n * Duration::from_secs(5))).await })
        })
        .collect();
    while server.asked() == 0 {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap(), ana());
    }
    assert_eq!(server.asked(), 1);
}

#[test]
fn a_wrong_configuration_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let good = || IssuerConfig { jwks_url: Some("https://id.example.org/certs".to_owned()), ..config("hospital") };
    let from_file = |path: Option<std::path::PathBuf>| IssuerConfig { public_key_file: path, ..config("hospital") };
    let error = |issuers: Vec<IssuerConfig>| match start(issuers, Arc::default()) {
        Ok(_) => "fine".to_owned(),
        Err(AuthenticatorError::Issuer(IssuerError::Keys { name, source })) => format!("{name}: {source}"),
        Err(error) => error.to_string(),
    };
    let ec = Signer::ec().public_pem;
    let cases = [
        (vec![good()], "fine"),
        (vec![IssuerConfig { name: "Local".to_owned(), ..good() }], "taken by the users with passwords"),
        (vec![IssuerConfig { name: "a:b".to_owned(), ..good() }], "must be 1 to 64 letters"),
        (vec![good(), IssuerConfig { issuer: "other".to_owned(), name: "HOSPITAL".to_owned(), ..good() }], "two issuers have the name"),
        (vec![good(), IssuerConfig { name: "other".to_owned(), ..good() }], "two issuers have the issuer"),
        (vec![IssuerConfig { issuer: OWN_ISSUER.to_owned(), ..good() }], "this server's own"),
        (vec![IssuerConfig { audience: vec![], ..good() }], "audience must not be empty"),
        (vec![IssuerConfig { algorithms: vec![], ..good() }], "algorithms must not be empty"),
        (vec![IssuerConfig { algorithms: vec!["HS256".to_owned()], ..good() }], "\"HS256\" has a shared secret"),
        (vec![IssuerConfig { algorithms: vec!["none".to_owned()], ..good() }], "\"none\" is unknown"),
        (vec![IssuerConfig { leeway_s: 301, ..good() }], "leeway_s is at most 300"),
        (vec![config("hospital")], "exactly one of jwks_url, jwks_file and public_key_file"),
        (vec![IssuerConfig { jwks_file: Some("x".into()), ..good() }], "exactly one of"),
        (
            vec![IssuerConfig { jwks_url: Some("http://id.example.org/certs".to_owned()), ..good() }],
            "not https, and its host is not loopback",
        ),
        (vec![IssuerConfig { jwks_url: Some("file:///etc/passwd".to_owned()), ..good() }], "is not a URL"),
        (vec![from_file(Some(folder.path().join("none.pem")))], "cannot be read"),
        (vec![from_file(file("bad.pem", "no key"))], "no public key"),
        (vec![from_file(file("private.pem", &ec.replace("PUBLIC", "PRIVATE")))], "no public key"),
        (vec![from_file(file("certificate.pem", &ec.replace("PUBLIC KEY", "CERTIFICATE")))], "no public key"),
        (vec![IssuerConfig { algorithms: vec!["RS256".to_owned()], ..from_file(file("ec.pem", &ec)) }], "no key fits the algorithms"),
        (vec![IssuerConfig { jwks_file: file("bad.json", "{"), ..config("hospital") }], "not JSON of the form"),
        (vec![IssuerConfig { jwks_file: file("none.json", "{\"keys\":[]}"), ..config("hospital") }], "no key fits the algorithms"),
    ];
    for (issuers, expected) in cases {
        let message = error(issuers);
        assert!(message.contains(expected), "{message:?} should say {expected:?}");
    }
}

#[test]
fn the_configuration_has_defaults_and_no_unknown_keys() {
    let minimal = json!({"name": "h", "issuer": "i", "audience": ["a"], "jwks_url": "https://x/"});
    let config: IssuerConfig = serde_json::from_value(minimal.clone()).unwrap();
    assert_eq!(config.algorithms, ["RS256", "ES256"]);
    assert_eq!((config.subject_claim.as_str(), config.groups_claim.as_str(), config.leeway_s), ("sub", "groups", 5));
    let misspelt = merged(minimal, &json!({"leeway": 5}));
    assert!(serde_json::from_value::<IssuerConfig>(misspelt).unwrap_err().to_string().contains("unknown field `leeway`"));
}

async fn stored(password: &str) -> StoredUser {
    StoredUser { password_hash: Some(password::hash(password).await.unwrap()), enabled: true, tokens_valid_after_s: 0 }
}

async fn basic(authenticator: &Authenticator, user: &str, password: &str, now: Moment) -> Result<Principal, String> {
    let credential = Credential::Basic { user: user.to_owned(), password: password.to_owned() };
    authenticator.authenticate_at(&credential, None, now).await.map_err(|error| error.reason())
}

#[tokio::test]
async fn passwords_sign_in_and_changes_count_at_once() {
    let (users, now) = (Arc::new(Users::default()), Moment::now());
    users.set("ana", stored("one").await);
    users.set("bot", StoredUser { password_hash: None, ..stored("x").await });
    let authenticator = start(vec![], Arc::clone(&users)).unwrap();
    let principal = basic(&authenticator, "ana", "one", now).await.unwrap();
    assert_eq!((principal.name.to_string().as_str(), principal.credential), ("ana", CredentialKind::Password));
    assert!(principal.groups.is_empty());
    for (user, password, reason) in [
        ("ana", "two", Reason::WrongPassword),
        ("ana", "", Reason::WrongPassword),
        ("Ana", "one", Reason::UnknownUser),
        ("nobody", "one", Reason::UnknownUser),
        ("bot", "", Reason::NoPassword),
    ] {
        assert_eq!(basic(&authenticator, user, password, now).await.unwrap_err(), reason.to_string());
    }
    let changed = stored("two").await;
    users.set("ana", changed);
    assert_eq!(basic(&authenticator, "ana", "one", now).await.unwrap_err(), Reason::WrongPassword.to_string());
    assert!(basic(&authenticator, "ana", "two", now).await.is_ok());
    users.change("ana", |user| user.enabled = false);
    assert_eq!(basic(&authenticator, "ana", "two", now).await.unwrap_err(), Reason::Disabled.to_string());
}

#[tokio::test]
async fn a_remembered_password_is_not_held_back_by_guessing() {
    let (users, now) = (Arc::new(Users::default()), Moment::now());
    users.set("ana", stored("one").await);
    let authenticator = start(vec![], Arc::clone(&users)).unwrap();
    basic(&authenticator, "ana", "one", now).await.unwrap();
    let mut guesses = 0;
    while basic(&authenticator, "ana", &format!("guess {guesses}"), now).await.unwrap_err() == Reason::WrongPassword.to_string() {
        guesses += 1;
    }
    assert_eq!(guesses, 6);
    assert!(basic(&authenticator, "ana", "one", now).await.is_ok(), "who signed in a moment ago goes on");
    authenticator.sign_in.forget();
    assert_eq!(basic(&authenticator, "ana", "one", now).await.unwrap_err(), Reason::Throttled.to_string());
    assert!(basic(&authenticator, "ana", "one", now.after(Duration::from_secs(1))).await.is_ok());
}

#[tokio::test]
async fn unknown_users_are_held_back_like_known_ones() {
    let (users, now) = (Arc::new(Users::default()), Moment::now());
    users.set("ana", stored("one").await);
    let authenticator = start(vec![], Arc::clone(&users)).unwrap();
    for user in ["ana", "nobody"] {
        let mut tried = 0;
        while basic(&authenticator, user, &tried.to_string(), now).await.unwrap_err() != Reason::Throttled.to_string() {
            tried += 1;
        }
        assert_eq!(tried, 6, "{user}");
    }
}

#[tokio::test]
async fn many_connections_at_once_with_one_password_are_one_check() {
    let (users, now) = (Arc::new(Users::default()), Moment::now());
    users.set("ana", stored("one").await);
    let authenticator = Arc::new(start(vec![], users).unwrap());
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let authenticator = Arc::clone(&authenticator);
            tokio::spawn(async move { basic(&authenticator, "ana", "one", now).await })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn our_own_tokens_last_until_something_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (users, now) = (Arc::new(Users::default()), Moment::now());
    users.set("ana", stored("one").await);
    let key = |path: &Path| TokenKey::load_or_create(path).unwrap();
    let path = folder.path().join("token.key");
    let open = |key: TokenKey| {
        let config = AuthenticatorConfig { issuers: vec![], token_key: key, token_lifetime: LIFETIME };
        Authenticator::new(config, Arc::clone(&users) as Arc<dyn UserDirectory>).unwrap()
    };
    let authenticator = open(key(&path));
    let principal = basic(&authenticator, "ana", "one", now).await.unwrap();
    let issued = authenticator.issue_at(&principal, now.wall).unwrap();
    assert_ne!(issued.id, authenticator.issue_at(&principal, now.wall).unwrap().id);

    // A restart reads the same key.
    let restarted = open(key(&path));
    let credential = Credential::Bearer(issued.token.clone());
    let again = restarted.authenticate_at(&credential, None, now).await.unwrap();
    assert_eq!((again.name.to_string().as_str(), again.credential), ("ana", CredentialKind::OwnToken));
    assert_eq!(again.token_id.as_deref(), Some(issued.id.as_str()));
    assert_eq!(again.expires_at, Some(issued.expires_at));
    assert_eq!(restarted.issue_at(&again, now.wall).unwrap_err().reason(), Reason::NotExchangeable.to_string());
    assert_eq!(bearer(&open(TokenKey::generate().unwrap()), &issued.token, now).await, refused(Reason::Signature));

    let ok = Ok("ana".to_owned());
    assert_eq!(bearer(&authenticator, &issued.token, now.after(LIFETIME - MINUTE)).await, ok);
    assert_eq!(bearer(&authenticator, &issued.token, now.after(LIFETIME + MINUTE)).await, refused(Reason::Expired));

    users.change("ana", |user| user.enabled = false);
    assert_eq!(bearer(&authenticator, &issued.token, now).await, refused(Reason::Disabled));
    users.change("ana", |user| user.enabled = true);
    assert_eq!(bearer(&authenticator, &issued.token, now).await, ok);
    users.change("ana", |user| user.tokens_valid_after_s = unix_s(now.wall) + 1);
    assert_eq!(bearer(&authenticator, &issued.token, now).await, refused(Reason::Revoked));
    users.change("ana", |user| user.tokens_valid_after_s = unix_s(now.wall));
    assert_eq!(bearer(&authenticator, &issued.token, now).await, refused(Reason::Revoked), "revoked in the second it was issued");

    let fresh = authenticator.issue_at(&principal, now.wall).unwrap();
    assert_eq!(bearer(&authenticator, &fresh.token, now).await, ok);
    users.remove("ana");
    assert_eq!(bearer(&authenticator, &fresh.token, now).await, refused(Reason::UnknownUser));
    let namesake = StoredUser { tokens_valid_after_s: unix_s(now.wall), ..stored("one").await };
    users.set("ana", namesake);
    assert_eq!(bearer(&authenticator, &fresh.token, now).await, refused(Reason::Revoked), "another user of the same name");
}

#[tokio::test]
async fn our_own_tokens_are_of_one_algorithm_and_type() {
    let (users, now) = (Arc::new(Users::default()), Moment::now());
    users.set("ana", stored("one").await);
    let key = TokenKey::generate().unwrap();
    let secret = key.derive("own tokens");
    let config = AuthenticatorConfig { issuers: vec![], token_key: key, token_lifetime: LIFETIME };
    let authenticator = Authenticator::new(config, users).unwrap();
    let principal = basic(&authenticator, "ana", "one", now).await.unwrap();
    let token = authenticator.issue_at(&principal, now.wall).unwrap().token;
    let body = token.split('.').nth(1).unwrap();
    let good: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
    let signer = |algorithm| Signer { algorithm, private: EncodingKey::from_secret(&secret), public_pem: String::new() };
    let typ = json!({"typ": "at+jwt"});
    let cases = [
        (Algorithm::HS256, typ.clone(), json!({}), Ok("ana".to_owned())),
        (Algorithm::HS512, typ.clone(), json!({}), refused(Reason::Algorithm)),
        (Algorithm::HS256, json!({"alg": "none", "typ": "at+jwt"}), json!({}), refused(Reason::Algorithm)),
        (Algorithm::HS256, json!({"typ": "ticket"}), json!({}), refused(Reason::TokenType)),
        (Algorithm::HS256, typ.clone(), json!({"aud": "other"}), refused(Reason::Audience)),
        (Algorithm::HS256, typ.clone(), json!({"exp": null}), missing("exp")),
        (Algorithm::HS256, typ.clone(), json!({"iat": null}), missing("iat")),
        (Algorithm::HS256, typ.clone(), json!({"jti": null}), missing("jti")),
        (Algorithm::HS256, typ.clone(), json!({"stamp": null}), missing("stamp")),
        (Algorithm::HS256, typ.clone(), json!({"stamp": "x"}), refused(Reason::Revoked)),
        (Algorithm::HS256, typ, json!({"sub": "nobody"}), refused(Reason::UnknownUser)),
    ];
    for (algorithm, header, patch, expected) in cases {
        let token = signer(algorithm).sign("", &merged(json!({"kid": null}), &header), &merged(good.clone(), &patch));
        assert_eq!(bearer(&authenticator, &token, now).await, expected, "{algorithm:?} {header} {patch}");
    }
}
