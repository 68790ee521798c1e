// A resource server that accepts certificate-bound tokens (RFC 9068, RFC 8705), with the JDK alone.
//
// Usage: java ResourceServer.java ISSUER AUDIENCE SERVER_P12 PASSWORD PORT [CA_PEM]
//
// CA_PEM is the authority of the issuer's server certificate, if it is not a public one.
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsExchange;
import com.sun.net.httpserver.HttpsParameters;
import com.sun.net.httpserver.HttpsServer;
import java.io.FileInputStream;
import java.math.BigInteger;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.AlgorithmParameters;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.PublicKey;
import java.security.Signature;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.ECParameterSpec;
import java.security.spec.ECPoint;
import java.security.spec.ECPublicKeySpec;
import java.time.Instant;
import java.util.Base64;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLPeerUnverifiedException;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;

public class ResourceServer {
    static String issuer, audience;
    static HttpClient client;
    static URI jwksUri;
    static final Map<String, PublicKey> keys = new ConcurrentHashMap<>();
    static Instant fetched = Instant.EPOCH;

    /** A text member of a JSON object.  Use a JSON library in production. */
    static String text(String json, String name) {
        Matcher m = Pattern.compile("\"" + Pattern.quote(name) + "\"\\s*:\\s*\"([^\"\\\\]*)\"").matcher(json);
        return m.find() ? m.group(1) : null;
    }

    static long number(String json, String name) {
        Matcher m = Pattern.compile("\"" + name + "\"\\s*:\\s*(\\d+)").matcher(json);
        if (!m.find()) throw new SecurityException("no " + name);
        return Long.parseLong(m.group(1));
    }

    static String get(URI uri) throws Exception {
        var answer = client.send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) throw new IllegalStateException(uri + ": " + answer.statusCode());
        return answer.body();
    }

    /** The key with this ID.  The key set is fetched again after five minutes, and for an unknown ID, at most every five seconds. */
    static synchronized PublicKey key(String kid) throws Exception {
        var age = Instant.now().getEpochSecond() - fetched.getEpochSecond();
        if (age > 300 || (!keys.containsKey(kid) && age > 5)) {
            keys.clear();
            for (String jwk : get(jwksUri).split("\\}")) {
                if (!"ES256".equals(text(jwk, "alg"))) continue;
                var parameters = AlgorithmParameters.getInstance("EC");
                parameters.init(new ECGenParameterSpec("secp256r1"));
                var point = new ECPoint(integer(text(jwk, "x")), integer(text(jwk, "y")));
                var spec = new ECPublicKeySpec(point, parameters.getParameterSpec(ECParameterSpec.class));
                keys.put(text(jwk, "kid"), KeyFactory.getInstance("EC").generatePublic(spec));
            }
            fetched = Instant.now();
        }
        var key = keys.get(kid);
        if (key == null) throw new SecurityException("unknown key");
        return key;
    }

    static BigInteger integer(String base64url) {
        return new BigInteger(1, Base64.getUrlDecoder().decode(base64url));
    }

    /** Returns the claims of a token that is valid on a connection with `certificate`. */
    static String check(String authorization, X509Certificate certificate) throws Exception {
        if (authorization == null || !authorization.regionMatches(true, 0, "Bearer ", 0, 7)) throw new SecurityException("no token");
        String[] parts = authorization.substring(7).split("\\.", -1);
        if (parts.length != 3) throw new SecurityException("not a JWT");
        var decoder = Base64.getUrlDecoder();
        String header = new String(decoder.decode(parts[0]), StandardCharsets.UTF_8);
        if (!"at+jwt".equals(text(header, "typ")) || !"ES256".equals(text(header, "alg"))) throw new SecurityException("header");
        var signature = Signature.getInstance("SHA256withECDSAinP1363Format");
        signature.initVerify(key(text(header, "kid")));
        signature.update((parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII));
        if (!signature.verify(decoder.decode(parts[2]))) throw new SecurityException("signature");
        String claims = new String(decoder.decode(parts[1]), StandardCharsets.UTF_8);
        if (!issuer.equals(text(claims, "iss")) || !audience.equals(text(claims, "aud"))) throw new SecurityException("issuer or audience");
        if (number(claims, "exp") + 30 < Instant.now().getEpochSecond()) throw new SecurityException("expired");
        byte[] digest = certificate == null ? new byte[0] : MessageDigest.getInstance("SHA-256").digest(certificate.getEncoded());
        String presented = Base64.getUrlEncoder().withoutPadding().encodeToString(digest);
        if (!presented.equals(text(claims, "x5t#S256"))) throw new SecurityException("bound to another certificate");
        return claims;
    }

    /** Accepts every client certificate: it only identifies the key of the connection, and the gateway judged it. */
    static final X509TrustManager ANY = new X509TrustManager() {
        public void checkClientTrusted(X509Certificate[] chain, String type) {}
        public void checkServerTrusted(X509Certificate[] chain, String type) { throw new UnsupportedOperationException(); }
        public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    };

    public static void main(String[] args) throws Exception {
        issuer = args[0];
        audience = args[1];
        char[] password = args[3].toCharArray();
        var store = KeyStore.getInstance("PKCS12");
        store.load(new FileInputStream(args[2]), password);
        var managers = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        managers.init(store, password);
        var tls = SSLContext.getInstance("TLS");
        tls.init(managers.getKeyManagers(), new TrustManager[] {ANY}, null);
        client = HttpClient.newBuilder().sslContext(args.length > 5 ? trusting(args[5]) : SSLContext.getDefault()).build();
        String metadata = get(URI.create(issuer + "/.well-known/oauth-authorization-server"));
        if (!issuer.equals(text(metadata, "issuer"))) throw new IllegalStateException("the metadata is of another issuer");
        jwksUri = URI.create(text(metadata, "jwks_uri"));

        var server = HttpsServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[4])), 0);
        server.setHttpsConfigurator(new HttpsConfigurator(tls) {
            @Override public void configure(HttpsParameters parameters) {
                var settings = getSSLContext().getDefaultSSLParameters();
                settings.setWantClientAuth(true);
                parameters.setSSLParameters(settings);
            }
        });
        server.createContext("/", exchange -> {
            int status = 200;
            String body;
            try {
                String claims = check(exchange.getRequestHeaders().getFirst("Authorization"), presented((HttpsExchange) exchange));
                body = "{\"subject\": \"" + text(claims, "sub") + "\"}";
            } catch (Exception error) {
                status = 401;
                body = "{\"error\": \"invalid_token\"}";
                exchange.getResponseHeaders().set("WWW-Authenticate", "Bearer error=\"invalid_token\"");
            }
            byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(status, bytes.length);
            exchange.getResponseBody().write(bytes);
            exchange.close();
        });
        server.start();
        System.out.println("ready");
    }

    static X509Certificate presented(HttpsExchange exchange) {
        try {
            return (X509Certificate) exchange.getSSLSession().getPeerCertificates()[0];
        } catch (SSLPeerUnverifiedException none) {
            return null;
        }
    }

    static SSLContext trusting(String pem) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(new FileInputStream(pem)));
        var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }
}
