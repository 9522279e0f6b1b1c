//! Plots in which something is feared.

/// A night of fear, and what helps against it.
pub const STORM: &str = r#"
hero little: girl boy | boy girl | boy boy | girl girl | critter critter
echo: storm
count: 3..8

<opening:hero>

one {storm.season} night, {storm} {storm.did}.
it was a dark {storm.season} night. Outside, {storm} {storm.did}, and {echo} {echo.did}.
{hero} was in bed when {storm} {storm.did}.
late one {storm.season} evening, {storm} {storm.did}, and {storm.sign}.
{storm} {storm.did} that night, and nobody could sleep.

? {storm.sign}, and then it was dark.
all the lights went out.
there was a loud crash, and the lights went out.
something banged against the wall, {count} times.

<fear:hero>
{hero} hid under the blanket. <fear:hero>
{hero} held {hero.his} {color} {toy} tight. <fear:hero>
"What was that?" <asked:hero>. But nobody answered.

either

then {hero} heard someone crying. It was little {little}.
the door opened, and there stood {little}, pale and {~scared}.
from the other bed came a small voice. "Are you awake?" It was {little}.
"May I come into your bed?" <asked:little>. {little.he} was even more {~scared} than {hero}.

{hero} wanted to be brave for {little}. {hero.he} lit a {light}.
{hero} got up, felt {hero.his} way to the cupboard and found a {light}.
"Come here. I have a {light}," <said:hero>.
{hero} looked for the {light} {nook}, and there it was.

"The storm is only loud. It can not come in," <said:hero>.
"Let us count until it is over," <said:hero>. They counted to {few}.
{hero} told {little} a story about a {trait} {~animal.noun} who was afraid of nothing.
they held hands and sang a song about {storm.season}, and each time it got louder outside, they sang louder too.

little by little, {little} stopped shaking. And {hero} saw that {hero.he} was not {scared} any more.
when {little} fell asleep, {hero} noticed that {hero.his} own fear was gone.
<glad:little> and {hero} forgot to be {scared}.

{hero} learned that [helping someone else makes you brave|fear gets smaller when you share it].
who cares for others has no time to be afraid.
to be brave is to be {scared} and to help all the same.
a small light and a good friend are enough for any night.

or

{hero} called for {elder}. {elder} came with a {light}.
"{elder}, are you there?" <cried:hero>. The door opened, and {elder} came in with a {light}.
then a warm light came up the stairs. It was {elder} with a {light}.

"Are you {scared}?" <asked:elder>. {hero} nodded.
"I was afraid of storms too when I was small," <said:elder>.
{elder} sat down on the bed and put an arm around {hero}.

"Count until it is quiet," <said:elder>. {hero} counted to {count}, then to {few}.
"It is only {storm}. It has always passed, and it will pass this time too," <said:elder>.
{elder} made {~supper} in the middle of the night, and they ate it by the light of the {light}.
they looked out together. Each time it got loud, {elder} made a funny face, until {hero} had to laugh.

soon {hero} was asleep. {elder} left the {light} by the bed.
"Good night, storm," {hero} said at last and closed {hero.his} eyes.
{hero} thought that {storm} was almost like a song. Then {hero.he} slept.

things are less scary when you know what they are.
{hero} learned that it is all right to call for help.
even a long night has a morning, and someone who loves you waits there.
since then, {hero} counts when {hero.he} hears {storm}.

or

then {hero} heard a sound at the window. "{animal.sound}!" Something out there needed help.
between two gusts there came a cry from outside. "{animal.sound}, {animal.sound}!"
scratch, scratch. Someone was at the door. "{animal.sound}?" it went, very softly.

{hero} took a {light} and opened the door. There stood {animal}, wet and cold.
it was {animal}, who could not get back to {animal.home}. {hero} let {animal.him} in.
{hero.his} hand shook, but {hero.he} opened the window, and in came {animal}.

{hero} dried {animal.him} with a {color} blanket and gave {animal.him} some {animal.eats}.
they sat by the {light} all night. {animal} got {animal.eats}, and {hero} got {supper}.
"You are safe here," <said:hero>, and gave {animal.him} a bed {nook}.

in the morning the storm was over. {animal} {animal.cried} once and {animal.came} off to {animal.home}.
at dawn it was still. {animal} {animal.came} to the door, {animal.cried} and was gone.

{hero} had been so busy that {hero.he} had forgotten to be {scared}.
from then on, {animal} came by every evening.
a kind heart is stronger than any storm.
whoever opens the door lets fear out and a friend in.

end

? the next day, the sun came out, and {hero} {outdoors.did} {outdoors.at}.
in the morning there was a rainbow over the {landmark}.
"#;

/// A sound in the night, a wrong guess, and the animal that made the sound.
pub const NOISE: &str = r#"
hero friend: boy girl | girl boy | girl girl | boy boy | critter critter
guess: animal
nights: 2..4

<opening:hero>

one night, {hero} heard a {strange} sound. "{animal.sound}!"
{hero} could not sleep. Something outside went "{animal.sound}, {animal.sound}."
"{animal.sound}!" {hero} sat up in bed. What was that?
for {nights} nights, {hero} had heard the same {strange} sound: "{animal.sound}!"

? it was a {weather} {weather.season} night. {weather.line}.
{hero} looked at the clock. It was {few} minutes past midnight.

<fear:hero>
{hero} pulled the blanket over {hero.his} head.
"Is it a ghost?" {hero} whispered.
"Maybe it is a monster," {hero} thought. <fear:hero>

in the morning {hero} told {friend} about it. "it goes {animal.sound}," {hero.he} said.
the next day {hero} asked {friend}, "did you hear it too? {animal.sound}!" "no, I was asleep," <said:friend>.
{hero} told {friend}, but {friend.he} only laughed. "there are no monsters," <said:friend>.

"It must be {guess}," <said:friend>. "but {guess} does not say {animal.sound}. It says {guess.sound}," <said:hero>.
"Perhaps it was {guess}," <said:friend>. {hero} shook {hero.his} head. {guess} goes "{guess.sound}."
"Who would say {animal.sound}?" <asked:friend>. "{guess}? No, {guess.he} says {guess.sound}."

that night they waited together. {friend} had brought a {light}, and {hero} had {fruit}.
so {friend} stayed for the night. They sat at the window with a {light}.
"We will find out," <said:friend>. When it was dark, they took a {light} and {walk.walked} outside.

? they waited and waited. {friend} almost fell asleep.
the clock struck {few}. Nothing moved.
first there was only {junk}, rolling in the wind.

then it came again. "{animal.sound}!"
"{animal.sound}!" There it was! It came from {animal.home}.
suddenly, very close, it went "{animal.sound}."

either

{hero} held up the {light}. Two eyes shone {spot}. It was {animal}!
something {animal.came} into the light. It was only {animal}, who {animal.cried} once more.
{friend} pointed. There, {spot}, sat {animal} and {animal.cried}.

"You are far from {animal.home}. Are you hungry?" <asked:hero>. {hero.he} put down some {animal.eats}.
{hero} laughed. "so you are my monster!" {hero.he} said and gave {animal.him} {animal.eats}.
{animal} was looking for {animal.eats}. That was all.

or

they followed the sound to {animal.home}. There was {animal} with one foot under a root.
it was {animal}. {animal.he} was stuck {spot} and called for help.
"Help!" it seemed to say. {animal} had lost the way to {animal.home}.

{hero} and {friend} pulled {animal.him} out. {animal} {animal.cried} happily and {animal.came} home.
together they brought {animal} back to {animal.home}, and there was plenty of {animal.eats}.
{hero} was not {scared} any more. {hero.he} helped {animal}, who {animal.came} away and {animal.cried} a thank you.

end

{hero} and {friend} laughed and laughed.
"And I thought it was a ghost," <said:hero>.
"I told you that it was not {guess}," <said:hero>.
<glad:hero> now {hero.he} knew.

from then on, "{animal.sound}" was the sound by which {hero} fell asleep.
{hero} learned that [most monsters are made of nothing but fear|it is better to look than to be afraid].
what we do not know seems bigger than it is.
when you shine a light on fear, it gets very small.
since then, when someone says "{animal.sound}," {hero} only thinks of {animal}.
"#;
