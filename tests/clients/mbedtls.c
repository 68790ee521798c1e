/* A device with mbedTLS: token requests on connections of their own, each resuming the session of the one before.
 *
 *   mbedtls CA HOST PORT CLIENT_ID CHAIN KEY COUNT
 *
 * CLIENT_ID is percent-encoded.  With - for CHAIN and KEY, no certificate is presented.  The version is TLS 1.2, the
 * only one of mbedTLS 2.28.  Prints one line for each connection. */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/x509_crt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what, int error) {
  char text[128] = "";
  if (error != 0) mbedtls_strerror(error, text, sizeof text);
  fprintf(stderr, "mbedtls.c: %s %s\n", what, text);
  exit(2);
}

/* Prints the error of the library and the alert of the peer, if it was one. */
static void explain(const mbedtls_ssl_context *ssl, const char *step, int error) {
  char text[128];
  mbedtls_strerror(error, text, sizeof text);
  printf("TLS 1.2 %s: error -0x%04x (%s)", step, (unsigned)-error, text);
  /* The alert of the peer stays in the buffer of the message that was read last: its level and its description. */
  if (error == MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE) printf(", alert %d", ssl->in_msg[1]);
  printf("\n");
}

/* Returns the length of the answer, or the error. */
static int ask(mbedtls_ssl_context *ssl, const char *request, char *answer, size_t space) {
  size_t sent = 0, length = 0;
  int result = 0;
  while (sent < strlen(request)) {
    result = mbedtls_ssl_write(ssl, (const unsigned char *)request + sent, strlen(request) - sent);
    if (result <= 0) return result;
    sent += (size_t)result;
  }
  while (length + 1 < space && (result = mbedtls_ssl_read(ssl, (unsigned char *)answer + length, space - length - 1)) > 0) {
    length += (size_t)result;
  }
  answer[length] = 0;
  return length > 0 ? (int)length : result;
}

int main(int argc, char **argv) {
  mbedtls_entropy_context entropy;
  mbedtls_ctr_drbg_context random;
  mbedtls_x509_crt roots, chain;
  mbedtls_pk_context key;
  mbedtls_ssl_config config;
  mbedtls_ssl_session session;
  int error, has_session = 0;
  if (argc != 8) fail("expected CA HOST PORT CLIENT_ID CHAIN KEY COUNT", 0);
  const char *host = argv[2], *id = argv[4];
  signal(SIGPIPE, SIG_IGN);
  mbedtls_entropy_init(&entropy);
  mbedtls_ctr_drbg_init(&random);
  mbedtls_x509_crt_init(&roots);
  mbedtls_x509_crt_init(&chain);
  mbedtls_pk_init(&key);
  mbedtls_ssl_config_init(&config);
  mbedtls_ssl_session_init(&session);
  if ((error = mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0)) != 0) fail("no random numbers", error);
  if ((error = mbedtls_x509_crt_parse_file(&roots, argv[1])) != 0) fail("cannot read CA", error);
  if ((error = mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                           MBEDTLS_SSL_PRESET_DEFAULT)) != 0) fail("no configuration", error);
  mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
  mbedtls_ssl_conf_ca_chain(&config, &roots, NULL);
  if (strcmp(argv[5], "-") != 0) {
    if ((error = mbedtls_x509_crt_parse_file(&chain, argv[5])) != 0) fail("cannot read CHAIN", error);
    if ((error = mbedtls_pk_parse_keyfile(&key, argv[6], NULL)) != 0) fail("cannot read KEY", error);
    if ((error = mbedtls_ssl_conf_own_cert(&config, &chain, &key)) != 0) fail("cannot use the certificate", error);
  }
  for (int n = atoi(argv[7]); n > 0; n--) {
    mbedtls_ssl_context ssl;
    mbedtls_net_context net;
    char request[1024], answer[8192];
    mbedtls_ssl_init(&ssl);
    mbedtls_net_init(&net);
    if ((error = mbedtls_net_connect(&net, host, argv[3], MBEDTLS_NET_PROTO_TCP)) != 0) fail("cannot connect", error);
    if ((error = mbedtls_ssl_setup(&ssl, &config)) != 0) fail("no connection", error);
    if ((error = mbedtls_ssl_set_hostname(&ssl, host)) != 0) fail("cannot set the host name", error);
    if (has_session && (error = mbedtls_ssl_set_session(&ssl, &session)) != 0) fail("cannot use the session", error);
    mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
    snprintf(request, sizeof request,
             "POST /oauth2/token HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"
             "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %zu\r\n\r\n"
             "grant_type=client_credentials&client_id=%s",
             host, strlen("grant_type=client_credentials&client_id=") + strlen(id), id);
    /* The library removes the handshake's state with its last step, so the steps are made here. */
    int has_certificate = 0;
    while (ssl.state != MBEDTLS_SSL_HANDSHAKE_OVER && (error = mbedtls_ssl_handshake_step(&ssl)) == 0) {
      if (ssl.state == MBEDTLS_SSL_SERVER_CERTIFICATE) has_certificate = 1;
    }
    if (error != 0) {
      explain(&ssl, "handshake", error);
    } else if ((error = ask(&ssl, request, answer, sizeof answer)) <= 0) {
      explain(&ssl, "request", error);
    } else {
      char *body = strstr(answer, "\r\n\r\n");
      printf("TLS 1.2 %s: %.3s %s\n", has_certificate ? "full" : "resumed", answer + strlen("HTTP/1.1 "),
             body == NULL ? "" : body + 4);
      mbedtls_ssl_session_free(&session);
      mbedtls_ssl_session_init(&session);
      has_session = mbedtls_ssl_get_session(&ssl, &session) == 0;
      mbedtls_ssl_close_notify(&ssl);
    }
    fflush(stdout);
    mbedtls_ssl_free(&ssl);
    mbedtls_net_free(&net);
  }
  mbedtls_ssl_session_free(&session);
  mbedtls_ssl_config_free(&config);
  mbedtls_pk_free(&key);
  mbedtls_x509_crt_free(&chain);
  mbedtls_x509_crt_free(&roots);
  mbedtls_ctr_drbg_free(&random);
  mbedtls_entropy_free(&entropy);
  return 0;
}
