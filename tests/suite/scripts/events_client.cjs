// An EventSource as browsers have it. Prints when which event came, as JSON, and ends after `count` events.
//
//     events_client.cjs URL COUNT

const { EventSource } = require('eventsource');

const [url, count] = process.argv.slice(2);
const began = Date.now();
const heard = [];
const source = new EventSource(url);
source.onmessage = ({ data, lastEventId }) => {
  heard.push([data, lastEventId, Date.now() - began]);
  if (heard.length === Number(count)) {
    source.close();
    console.log(JSON.stringify(heard));
  }
};
source.onerror = ({ code, message }) => {
  if (source.readyState !== EventSource.CLOSED) return;
  console.log(JSON.stringify({ code, message }));
};
