use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

fn encode(json: &str) -> String {
    Base64UrlUnpadded::encode_string(json.as_bytes())
}

fn hs256(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
    let tag = ring::hmac::sign(&key, signed.as_bytes());
    format!(
        "{signed}.{}",
        Base64UrlUnpadded::encode_string(tag.as_ref())
    )
}

fn claims(json: &str) -> Claims {
    let token = hs256(r#"{"alg":"HS256"}"#, json);
    let key = Key::from_secret(SECRET).unwrap();
    let token = Token::parse(token.as_bytes()).unwrap();
    token.verified_by(&key).unwrap()
}

/// The example of RFC 7515, appendix A.3.
#[test]
fn the_token_of_the_specification_is_verified_by_its_key_and_by_no_other() {
    let jwk = br#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    let token = b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let keys = Key::from_jwks(jwk, false).unwrap();
    let token = Token::parse(token).unwrap();
    let claims = token.verified_by(&keys[0]).unwrap();
    assert_eq!(claims.text("iss"), Some("joe"));
    assert_eq!(Checks::default().check(&claims, NOW), Err(Fault::Expired));
    assert_eq!(
        Checks::default().check(&claims, 1_300_819_379),
        Ok(Some(1_300_819_380))
    );
    let other = Key::from_jwks(
        br#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#,
        false,
    );
    assert!(token.verified_by(&other.unwrap()[0]).is_none());
}

#[test]
fn a_public_key_is_no_secret_and_none_is_no_algorithm() {
    let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let pair = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        pair.unwrap().as_ref(),
        &SystemRandom::new(),
    )
    .unwrap();
    let public = Key::from_point_for_tests(pair.public_key().as_ref());
    // Signed by HMAC with the public key as the secret: a verifier that believes the token's algorithm would take it.
    let signed = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode("{}"));
    let tag = ring::hmac::sign(
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, pair.public_key().as_ref()),
        signed.as_bytes(),
    );
    let forged = format!(
        "{signed}.{}",
        Base64UrlUnpadded::encode_string(tag.as_ref())
    );
    let token = Token::parse(forged.as_bytes()).unwrap();
    assert!(!token.may_be_of(&public) && token.verified_by(&public).is_none());
    for alg in ["none", "None", "ES256", "HS512"] {
        let text = format!(
            "{}.{}.",
            encode(&format!(r#"{{"alg":"{alg}"}}"#)),
            encode("{}")
        );
        let token = Token::parse(text.as_bytes()).unwrap();
        assert!(token.verified_by(&public).is_none(), "{alg}");
        assert!(
            token
                .verified_by(&Key::from_secret(SECRET).unwrap())
                .is_none(),
            "{alg}"
        );
    }
}

#[test]
fn what_is_no_token_is_none() {
    let good = hs256(r#"{"alg":"HS256"}"#, "{}");
    assert!(Token::parse(good.as_bytes()).is_some());
    for text in [
        "",
        ".",
        "..",
        "a.b",
        "secret",
        "a.b.c.d",
        "%.e30.aa",
        "e30.e30.aa",
        &format!("{good}="),
        &format!("{good}.x"),
        &"a".repeat(MAX_TOKEN + 1),
    ] {
        assert!(Token::parse(text.as_bytes()).is_none(), "{text}");
    }
}

#[test]
fn a_changed_token_is_refused_and_one_with_unknown_extensions_too() {
    let key = Key::from_secret(SECRET).unwrap();
    let good = hs256(r#"{"alg":"HS256"}"#, r#"{"sub":"ann"}"#);
    let verified = |text: &str| Token::parse(text.as_bytes())?.verified_by(&key);
    assert!(verified(&good).is_some());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    assert!(
        verified(&format!(
            "{header}.{}.{signature}",
            encode(r#"{"sub":"bob"}"#)
        ))
        .is_none()
    );
    assert!(verified(&format!("{signed}.{}", &signature[..signature.len() - 4])).is_none());
    assert!(
        verified(&hs256(
            r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
            "{}"
        ))
        .is_none()
    );
    assert!(verified(&hs256(r#"{"alg":"HS256"}"#, "[]")).is_none());
}

#[test]
fn times_audience_and_issuer_are_checked() {
    let checks = Checks {
        issuers: vec!["us".to_owned()],
        audiences: vec!["broker".to_owned()],
        leeway: 60,
        max_lifetime: 3_600,
        endless: false,
    };
    let at = |text: &str| checks.check(&claims(text), NOW);
    let with = |more: &str| format!(r#"{{"iss":"us","aud":["x","broker"],{more}}}"#);
    let (exp, iat) = (NOW + 100, NOW - 100);
    assert_eq!(
        at(&with(&format!(r#""exp":{exp},"iat":{iat}"#))),
        Ok(Some(exp + 60))
    );
    for (text, fault) in [
        (
            format!(r#"{{"aud":"broker","exp":{exp},"iat":{iat}}}"#),
            Fault::Issuer,
        ),
        (
            format!(r#"{{"iss":"them","aud":"broker","exp":{exp},"iat":{iat}}}"#),
            Fault::Issuer,
        ),
        (
            format!(r#"{{"iss":"us","aud":"other","exp":{exp},"iat":{iat}}}"#),
            Fault::Audience,
        ),
        (
            format!(r#"{{"iss":"us","exp":{exp},"iat":{iat}}}"#),
            Fault::Audience,
        ),
        (with(&format!(r#""iat":{iat}"#)), Fault::Endless),
        (
            with(&format!(r#""exp":{},"iat":{iat}"#, NOW - 60)),
            Fault::Expired,
        ),
        (
            with(&format!(r#""exp":"soon","iat":{iat}"#)),
            Fault::Expired,
        ),
        (with(&format!(r#""exp":-5,"iat":{iat}"#)), Fault::Expired),
        (
            with(&format!(r#""exp":{exp},"iat":{}"#, NOW + 61)),
            Fault::NotYet,
        ),
        (
            with(&format!(r#""exp":{exp},"iat":{iat},"nbf":{}"#, NOW + 61)),
            Fault::NotYet,
        ),
        (
            with(&format!(r#""exp":{},"iat":{iat}"#, NOW + 3_501)),
            Fault::TooLong,
        ),
        (with(&format!(r#""exp":{exp}"#)), Fault::TooLong),
    ] {
        assert_eq!(at(&text), Err(fault), "{text}");
    }
    // The leeway, on both sides.
    assert!(at(&with(&format!(r#""exp":{},"iat":{iat}"#, NOW - 59))).is_ok());
    assert!(at(&with(&format!(r#""exp":{exp},"iat":{}"#, NOW + 60))).is_ok());
}

#[test]
fn claims_are_found_by_name_and_by_path() {
    let claims =
        claims(r#"{"a.b":"whole","a":{"b":"inner","c":["x",1,"y"]},"n":7,"t":true,"o":{}}"#);
    assert_eq!(claims.text("a.b"), Some("whole"));
    assert_eq!(claims.texts("a.c"), ["x", "y"]);
    assert_eq!(claims.plain("n").as_deref(), Some("7"));
    assert_eq!(claims.plain("t").as_deref(), Some("true"));
    assert_eq!(claims.plain("o"), None);
    assert_eq!(claims.text("a.b.c"), None);
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    for (jwk, words) in [
        ("x", "no JSON"),
        ("{}", "is not taken"),
        (r#"{"keys":[]}"#, "is empty"),
        (r#"{"keys":7}"#, "no list"),
        (r#"{"kty":"EC","crv":"P-384"}"#, "P-384"),
        (
            r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#,
            "wrong length",
        ),
        (r#"{"kty":"RSA","n":"AAAA","e":"AQAB"}"#, "0 bits"),
        (r#"{"kty":"RSA","e":"AQAB"}"#, "no \"n\""),
        (r#"{"kty":"oct","k":"AAAA"}"#, "is not taken"),
        (r#"{"kty":"EC","use":"enc"}"#, "not for signatures"),
    ] {
        let fault = Key::from_jwks(jwk.as_bytes(), false).unwrap_err();
        assert!(fault.contains(words), "{jwk}: {fault}");
    }
    assert!(Key::from_secret(b"short").unwrap_err().contains("5 bytes"));
    let private = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(Key::from_pem(private).unwrap_err().contains("private key"));
    assert!(Key::from_pem(b"").unwrap_err().contains("BEGIN PUBLIC KEY"));
}

proptest::proptest! {
    #[test]
    fn no_bytes_are_too_strange_for_tokens_keys_and_scram(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        parts in proptest::collection::vec("[A-Za-z0-9_{}\":,=.-]{0,60}", 0..5),
    ) {
        let key = Key::from_secret(SECRET).unwrap();
        let texts = [bytes.clone(), parts.join(".").into_bytes(), parts.join(",").into_bytes()];
        for text in &texts {
            let believed = Token::parse(text).and_then(|token| token.verified_by(&key));
            proptest::prop_assert!(believed.is_none());
            proptest::prop_assert!(Key::from_pem(text).is_err());
            proptest::prop_assert!(Key::from_spki_der(text).is_err());
            let _jwks = Key::from_jwks(text, true).is_ok();
            let _name = crate::auth::scram::name_in(text).is_ok();
            let _verifier = std::str::from_utf8(text).map(crate::auth::scram::Verifier::parse).is_ok();
        }
        // Header and claims that are well encoded, with anything in them.
        let signed = hs256(r#"{"alg":"HS256"}"#, &parts.concat());
        if let Some(claims) = Token::parse(signed.as_bytes()).and_then(|token| token.verified_by(&key)) {
            let _checked = Checks::default().check(&claims, NOW).is_ok();
        }
    }
}
