// A device with Java's own TLS and HttpClient: two handshakes each over TLS 1.2 and 1.3.
//   java Device.java CA URL CLIENT_ID CHAIN.P12 EXPECTED: each result contains EXPECTED
import java.io.FileInputStream;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;

class Device {
    public static void main(String[] args) throws Exception {
        String ca = args[0], url = args[1], id = args[2], store = args[3], expected = args[4];
        for (String version : new String[] {"TLSv1.2", "TLSv1.3"}) {
            SSLContext context = context(ca, store, version);
            // A client of its own for each request, so that each makes a handshake.
            for (int i = 0; i < 2; i++) {
                String result = request(context, version, url, id);
                if (!result.contains(expected)) {
                    System.err.println("Device.java: " + version + ", request " + (i + 1) + ": " + result);
                    System.exit(1);
                }
            }
        }
    }

    static SSLContext context(String ca, String store, String version) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null);
        try (FileInputStream in = new FileInputStream(ca)) {
            trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(trusted);
        KeyStore own = KeyStore.getInstance("PKCS12");
        try (FileInputStream in = new FileInputStream(store)) {
            own.load(in, "device".toCharArray());
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(own, "device".toCharArray());
        SSLContext context = SSLContext.getInstance(version);
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    static String request(SSLContext context, String version, String url, String id) throws Exception {
        SSLParameters parameters = new SSLParameters();
        parameters.setProtocols(new String[] {version});
        HttpClient client = HttpClient.newBuilder().sslContext(context).sslParameters(parameters)
            .version(HttpClient.Version.HTTP_1_1).build();
        String form = "grant_type=client_credentials&client_id=" + URLEncoder.encode(id, StandardCharsets.UTF_8);
        HttpRequest request = HttpRequest.newBuilder(URI.create(url))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .POST(HttpRequest.BodyPublishers.ofString(form)).build();
        try {
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            return response.statusCode() + " " + response.body();
        } catch (SSLException error) {
            return error.toString();
        }
    }
}
