(async button => {
  if (button.recorder) { button.recorder.stop(); return; }
  const area = button.closest('.sarsteer-request').querySelector('.sarsteer-recording textarea');
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  const recorder = button.recorder = new MediaRecorder(stream), parts = [];
  recorder.ondataavailable = event => parts.push(event.data);
  recorder.onstop = async () => {
    button.recorder = null; button.textContent = button.title;
    stream.getTracks().forEach(track => track.stop());
    const bytes = await new Blob(parts).arrayBuffer();
    const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
    const heard = sound.getChannelData(0).slice(0, RATE * SECONDS);
    const samples = Int16Array.from(heard, x => 32767 * Math.max(-1, Math.min(1, x)));
    let text = '';
    for (const byte of new Uint8Array(samples.buffer)) text += String.fromCharCode(byte);
    area.value = btoa(text);
    for (const name of ['input', 'change']) area.dispatchEvent(new Event(name, {bubbles: true}));
  };
  recorder.start(); button.textContent = 'Stop (ends at SECONDS s)';
  setTimeout(() => recorder.state === 'recording' && recorder.stop(), 1000 * SECONDS);
})(this)
