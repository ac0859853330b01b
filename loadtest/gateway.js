// k6 profile: a constant arrival rate, whatever the answers take, so that waiting is not left out of the latency.
//
//   URL=http://127.0.0.1:8080/ TOKEN=eyJ... RATE=2000 DURATION=30s k6 run loadtest/gateway.js
//
// URL       what is asked for                          http://127.0.0.1:8080/
// TOKEN     bearer token; without it none is sent
// RATE      requests a second                          1000
// DURATION  of the run                                 30s
// CLIENTS   virtual users at most                      256
// P99       milliseconds that 99 % have to stay below  50
// STATUS    the status that counts as right            200
import http from 'k6/http';
import { check } from 'k6';

const url = __ENV.URL || 'http://127.0.0.1:8080/';
const status = Number(__ENV.STATUS || 200);
const clients = Number(__ENV.CLIENTS || 256);
const params = {
  headers: __ENV.TOKEN ? { Authorization: `Bearer ${__ENV.TOKEN}` } : {},
  responseCallback: http.expectedStatuses(status),
};

export const options = {
  scenarios: {
    gateway: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 1000),
      timeUnit: '1s',
      duration: __ENV.DURATION || '30s',
      preAllocatedVUs: Math.min(64, clients),
      maxVUs: clients,
    },
  },
  thresholds: {
    http_req_failed: ['rate==0'],
    checks: ['rate==1'],
    dropped_iterations: ['count==0'], // the rate was not reached
    http_req_duration: [`p(99)<${__ENV.P99 || 50}`],
  },
  discardResponseBodies: true,
  summaryTrendStats: ['med', 'p(90)', 'p(99)', 'p(99.9)', 'max'],
};

export default function () {
  const answer = http.get(url, params);
  check(answer, { 'status is right': (one) => one.status === status });
}
